"""A first hop of a user that relays: which paths are the user's own, which pass through it?

It sees the same frames in the same order of both, under ids that have nothing in common, once
others choose the user for their first hop. Two limits are executed too: of a relay that is too
young for that, all paths that go on are its own; and who sends a cell that does not open is
answered over one link there and back by the owner, over two by a relay. Not looked at here is time:
how long a user takes to answer, how its own frames stand among those that it passes on, when it is
on.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random

import pytest

from overlay.core.choice import Rules, SetUse
from overlay.core.guards import GuardRules
from overlay.core.path_driver_effects import Moment
from overlay.core.relay_memory import RelayMemory
from overlay.core.setup import open_setup
from overlay.core.wire import CELL, CLOSE, HEADER_BYTES, ID_BYTES, SETUP, encode_frame
from planetserve.records import RouteSet
from tests.adversary.watching import CHI_SQUARE_255, chi_square
from tests.overlay.relays import relay
from tests.overlay.world import Carried, Owned, World, node_id

USER, WATCHER, *REST = [node_id(number) for number in range(1, 5)]
HEIGHT = 10_000


@dataclass(eq=False)
class Watched:
    """A path through the watcher: the user's own, or another's that the user passes on."""

    own: bool
    seed: int = 1
    world: World = field(init=False)
    path: Owned = field(init=False)

    def __post_init__(self) -> None:
        self.world = World(relays=4, seed=self.seed, wire=self.to_its_client)
        hops = [WATCHER, *REST] if self.own else [USER, WATCHER, REST[0]]
        self.path = self.world.build(hops, USER if self.own else b"another")

    def to_its_client(self, carried: Carried) -> list[Carried]:
        """What a user node does with a frame of a path of its own."""
        if not self.own or carried.receiver != USER:
            return [carried]
        self.world.carried.append(carried)
        self.world.arrived.setdefault(USER, deque()).append(carried)
        return []

    def use(self) -> None:
        """A question of several cells, an answer, a ping, the end."""
        self.path.ask(bytes(10_000))
        for frame in self.world.at_target()[:3]:
            self.world.answer(frame, b"answer")
        self.path.receive()
        self.path.send(self.path.path.ping(b"12345678"))
        self.path.receive()
        self.path.send(self.path.path.close())

    @property
    def at_watcher(self) -> list[Carried]:
        return [c for c in self.world.carried if WATCHER in (c.sender, c.receiver)]

    def view(self) -> list[tuple[str, str, int, int]]:
        """Where from or to, which kind, how long; in order."""
        return [
            (
                "in" if c.receiver == WATCHER else "out",
                "user" if USER in (c.sender, c.receiver) else "next",
                c.frame[ID_BYTES],
                len(c.frame),
            )
            for c in self.at_watcher
        ]


def test_own_and_relayed_frames_come_in_the_same_order_kinds_and_sizes() -> None:
    views = []
    for own in (True, False):
        watched = Watched(own)
        watched.use()
        views.append(watched.view())
    assert views[0] == views[1]
    assert {kind for _, _, kind, _ in views[0]} == {SETUP, CELL, CLOSE}
    assert len(views[0]) > 20


def test_set_ups_open_to_the_same() -> None:
    for own in (True, False):
        watched = Watched(own)
        setup = watched.at_watcher[0].frame
        opened = open_setup(setup[HEADER_BYTES:], watched.world.members[WATCHER].secrets, WATCHER)
        assert opened.next_node == REST[0]
        assert opened.period == int(watched.world.now_s) // 300


def test_ids_have_nothing_in_common_and_bytes_are_uniform() -> None:
    ids: list[bytes] = []
    for own in (True, False):
        bodies: dict[int, list[bytes]] = {SETUP: [], CELL: []}
        for seed in range(40):
            watched = Watched(own, seed=1_000 * own + seed)
            watched.use()
            with_user = [c for c in watched.at_watcher if USER in (c.sender, c.receiver)]
            ids += {c.frame[:ID_BYTES] for c in with_user}
            for carried in with_user:
                if carried.frame[ID_BYTES] in bodies and carried.sender == USER:
                    bodies[carried.frame[ID_BYTES]].append(carried.frame[HEADER_BYTES:])
        assert len(bodies[SETUP]) == 40
        assert all(chi_square(b"".join(found)) < CHI_SQUARE_255 for found in bodies.values())
    assert len(ids) == len(set(ids)) == 160


@pytest.mark.parametrize(("own", "links"), [(True, 2), (False, 4)])
def test_a_probe_comes_back_sooner_from_the_owner(own: bool, links: int) -> None:
    """A limit: the way that a cell and the answer to it take is one link longer each way."""
    watched = Watched(own)
    back = next(c for c in watched.at_watcher if c.receiver == USER)
    spoiled = encode_frame(back.frame[:ID_BYTES], CELL, bytes(len(back.frame) - HEADER_BYTES))
    since = len(watched.world.carried)
    watched.world.deliver(Carried(WATCHER, USER, spoiled, dialled=back.dialled))
    watched.path.receive()
    travelled = watched.world.carried[since:]
    told = next(number for number, c in enumerate(travelled, 1) if c.receiver == WATCHER)
    assert told == links
    assert travelled[told - 1].frame[ID_BYTES] == CLOSE


@pytest.mark.parametrize(("age_blocks", "first"), [(5_000, False), (7_200, True)])
def test_who_is_too_young_begins_its_own_paths_only(age_blocks: int, first: bool) -> None:
    """A limit: of a young relay a neighbour that is not the last hop knows whose paths they are."""
    old = tuple(relay(number, registered=0) for number in range(1, 60))
    user = relay(60, registered=HEIGHT - age_blocks)
    places: Counter[int] = Counter()
    for seed in range(600):
        memory = RelayMemory(Rules(), GuardRules(), Random(seed).randrange)
        memory.routes_read(RouteSet(HEIGHT, b"h" * 32, (*old, user)))
        hops = memory.choose(SetUse(0), Moment(0.0, 1.8e9))
        assert hops is not None
        places.update(place for place, node in enumerate(hops.ids) if node == user.id)
    assert (places[0] > 0) == first
    assert places[1] > 0
    assert places[2] > 0
