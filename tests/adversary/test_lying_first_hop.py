"""A first hop that lies about its key: it runs with another onion key than the ledger lists, or
stands in for a relay whose key it does not have.

Over the link it cannot even pretend: CURVE is to the transport key of the ledger
(`test_a_server_with_another_key_gets_no_frame` in `tests.overlay.test_links`). With the right
transport key and a wrong onion key it can open no set-up, says so, and the user is told its name.
Nor can it have the rest of the path answered for by friends.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from overlay.core.choice import Hops, Rules, SetUse
from overlay.core.client_path import BUILDING, CLOSED, Broken
from overlay.core.diversity import Conflicts
from overlay.core.guards import GuardRules, Tally
from overlay.core.path_driver_effects import Moment
from overlay.core.reasons import Reason, Report
from overlay.core.relay_memory import RelayMemory
from overlay.core.setup import period_of
from planetserve.keys import NodeId
from planetserve.records import NodeRecord
from tests.overlay.relays import relay
from tests.overlay.world import START_S, World, node_id

MOMENT = Moment(0.0, START_S)
PERIOD = period_of(START_S)


def record(number: int) -> NodeRecord:
    return replace(relay(number), id=NodeId(node_id(number)))


def memory() -> tuple[RelayMemory, Hops]:
    hops = Hops(tuple(record(number) for number in (1, 2, 3)), Conflicts())
    known = RelayMemory(Rules(), GuardRules(min_age_blocks=0), Random(1).randrange)
    known.relays = [record(number) for number in range(1, 30)]
    return known, hops


def other_key(world: World, node: bytes) -> None:
    """The relay runs with secrets that are not those of the ledger."""
    world.members[node].core._secrets = World(seed=9).line[0].secrets


def test_a_first_hop_with_another_onion_key_is_told_by_name() -> None:
    world = World()
    other_key(world, node_id(1))
    owned = world.build()
    assert owned.events == [Broken(Report(Reason.NOT_OPENED), None)]
    assert world.members[node_id(2)].counts.total() == 0
    known, hops = memory()
    known.reported(hops, Report(Reason.NOT_OPENED), None, PERIOD, MOMENT)
    assert known.cause(MOMENT).startswith("relay-1 does not hold the onion key")


def test_a_later_hop_with_another_onion_key_is_told_by_the_one_before() -> None:
    world = World()
    other_key(world, node_id(2))
    owned = world.build()
    assert owned.events == [Broken(Report(Reason.NOT_OPENED), 0)]
    known, hops = memory()
    known.reported(hops, Report(Reason.NOT_OPENED), 0, PERIOD, MOMENT)
    assert known.cause(MOMENT).startswith("relay-2 does not hold the onion key")


def test_each_failure_of_a_lying_guard_is_held_against_it_and_nobody_else() -> None:
    known, _ = memory()
    hops = known.choose(SetUse(0), MOMENT)
    assert hops is not None
    for _ in range(5):
        known.failed(hops, None, False, False, MOMENT)
    guard = known.guards.find(hops.ids[0])
    assert guard is not None
    assert guard.builds == Tally(5, 0)
    assert known.guards.shuns == ()


def test_a_first_hop_cannot_pass_the_path_to_a_friend_in_the_next_ones_place() -> None:
    """It sends on what is for relay 2 to relay 4 instead, which says that it is relay 2."""
    world = World(relays=4)
    world.wire = lambda c: [replace(c, receiver=node_id(4))] if c.receiver == node_id(2) else [c]
    owned = world.build([node_id(1), node_id(2), node_id(3)])
    assert owned.path.phase != "OPEN"
    assert world.members[node_id(4)].counts["setup_not_opened"] == 1
    assert world.members[node_id(3)].counts.total() == 0


def test_a_first_hop_cannot_be_the_whole_path() -> None:
    """It keeps the set-up to itself and says what a last relay would say, as well as it can."""
    world = World()
    world.wire = lambda c: [c] if c.receiver in (node_id(1), b"owner") else []
    owned = world.build()
    assert owned.path.phase == BUILDING
    opened = World(seed=3, relays=1)
    opened.build([node_id(1)])
    (established,) = (c.frame for c in opened.carried if c.receiver == b"owner")
    forged = owned.path.backward_id + established[8:]
    world.deliver(replace(world.carried[0], sender=node_id(1), receiver=b"owner", frame=forged))
    owned.receive()
    assert owned.path.phase == CLOSED
    assert owned.events == [Broken(Report(Reason.PROTOCOL), None)]
