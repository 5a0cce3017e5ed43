"""Directory partition: an attacker has some users go by another route set than the rest, and knows
them by the relays that they choose.

A route set is whole or refused: it is the store `routes` under the root that a verified header
commits to, so that a server can show an older set but none of its own making. A relay sees of a
client's set only the next hop that it is told to go on to, and goes by its own set: a relay that
only some users know of is reached by nobody else's help. What is left is age: who names a next hop
that has left, or a first hop that came last, has an older or a newer set than others. The client is
told when relays' sets are newer than its own.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from overlay.core.choice import Rules, SetUse
from overlay.core.client_path import OPEN, Broken
from overlay.core.guards import GuardRules
from overlay.core.path_driver_effects import Moment
from overlay.core.reasons import Reason, Report
from overlay.core.relay_memory import RelayMemory
from overlay.core.setup import period_of
from planetserve.encoding import encode
from planetserve.errors import PlanetServeError, WrongProof
from planetserve.light.proven import check_state
from planetserve.merkle import map_root
from planetserve.records import NodeRecord, route_set
from tests.adversary.watching import hops
from tests.overlay.relays import relay
from tests.overlay.world import START_S, TARGET, World, node_id
from tests.planetserve.ledger_servers import FOUR, State
from tests.planetserve.light_chain import header_at

RECORDS = {b"routes/" + bytes((n,)) * 20: encode({"node": n}) for n in range(1, 9)}
HEADER = replace(header_at(6, FOUR, FOUR), app_hash=map_root(State(RECORDS).roots))
MOMENT = Moment(0.0, START_S)
PERIOD = period_of(START_S)


def shown(records: dict[bytes, bytes], pretend: bool = False) -> bytes:
    """A server's answer with these records; it may claim the right root for them."""
    answer = State(records).answer([], ["routes"])
    if pretend:
        answer["roots"] = State(RECORDS).answer([], ["routes"])["roots"]
    return encode(answer)


@pytest.mark.parametrize("pretend", [False, True])
def test_a_route_set_of_a_servers_own_making_is_refused(pretend: bool) -> None:
    """Each record left out, altered or added alone, and a set for one victim."""
    proven = check_state(shown(RECORDS), 5, HEADER, [], ["routes"])
    assert len(proven.stores["routes"]) == len(RECORDS)
    views = [{key: value for key, value in RECORDS.items() if key != gone} for gone in RECORDS]
    views += [{**RECORDS, key: encode({"node": 99})} for key in RECORDS]
    views += [{**RECORDS, b"routes/" + b"v" * 20: encode({"node": 99})}, {}]
    for view in views:
        with pytest.raises((WrongProof, PlanetServeError)):
            check_state(shown(view, pretend), 5, HEADER, [], ["routes"])


def test_a_relay_that_only_the_victim_knows_is_no_next_hop() -> None:
    world = World(relays=3)
    marked = node_id(3)
    world.members[node_id(2)].unlisted.add(marked)
    owned = world.build([node_id(1), node_id(2), marked])
    (event,) = owned.events
    assert isinstance(event, Broken)
    assert (event.report.reason, event.origin) == (Reason.UNKNOWN_NEXT, 0)
    assert world.members[marked].counts.total() == 0
    assert world.open_paths() == [0, 0, 0]


def test_nor_does_a_last_relay_dial_a_model_node_that_only_the_victim_knows() -> None:
    world = World(relays=3)
    world.members[node_id(3)].unlisted.add(TARGET)
    owned = world.build()
    owned.ask(b"question")
    assert not world.at_target()
    assert owned.path.phase == OPEN


def test_a_relay_learns_of_a_clients_set_the_next_hop_alone() -> None:
    """Two clients whose sets differ in all but this path are one to its relays: same secrets, same
    frames at every link."""
    views = []
    for others in (hops(3), [node_id(n) for n in range(1, 9)]):
        world = World(relays=3)
        world.known.update(others)
        owned = world.build()
        owned.ask(b"question")
        views.append([(c.sender, c.receiver, c.frame) for c in world.carried])
    assert views[0] == views[1]


def client(nodes: list[NodeRecord], height: int) -> RelayMemory:
    memory = RelayMemory(Rules(), GuardRules(min_age_blocks=0), Random(1).randrange)
    shown = route_set(height, bytes((height,)) * 32, [node.to_wire() for node in nodes])
    memory.routes_read(shown)
    return memory


def test_an_older_set_is_told_to_the_user_once_two_operators_say_so() -> None:
    nodes = [relay(number, f"operator-{number}") for number in range(1, 30)]
    memory = client(nodes, 50)
    used = memory.choose(SetUse(0), MOMENT)
    other = memory.choose(SetUse(1), MOMENT)
    assert used is not None
    assert other is not None
    newer = Report(Reason.UNKNOWN_NEXT, (77).to_bytes(8, "big") + bytes(range(8)))
    memory.reported(used, newer, 0, PERIOD, MOMENT)
    assert memory.cause(MOMENT) == ""  # one relay may lie
    memory.reported(other, newer, 0, PERIOD, MOMENT)
    assert memory.cause(MOMENT).startswith(
        "the route set is older than the relays' (height 50, theirs 77)"
    )
