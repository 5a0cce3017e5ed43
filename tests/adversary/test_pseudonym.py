"""The last relays of a client's paths as a name for it: can the model node, or the relays with it,
join two of its conversations?

Each conversation has a path set of its own (`overlay.core.path_pool`), in which only the guards
recur, and they are never last. The control is a client that keeps one path set for all it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from overlay.core.answering import Route
from overlay.core.attach import Attach
from overlay.core.choice import Rules, SetUse, choose_set_hops
from overlay.core.guards import GuardList, GuardRules, maintained
from overlay.core.request import COUNT_BYTES, OutgoingRequest
from tests.overlay.door import SECRET, TARGET, Door, N, open_clove
from tests.overlay.relays import relay

RELAYS = [relay(number, f"operator-{number}", f"8.{number}.0.1") for number in range(60)]
RULES = Rules()
CLIENTS = 300
WINDOW = 6


class Client:
    """Draws path sets under guards that stay."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed).randrange
        self.guards = maintained(GuardList(), RELAYS, 100_000, 0, 0.0, GuardRules(), self.draw)

    def last_relays(self) -> frozenset[bytes]:
        """Of a fresh path set."""
        hops: list[tuple[bytes, ...]] = []
        used = SetUse(0)
        for slot in range(RULES.n):
            used = SetUse(slot, used.others)
            chosen = choose_set_hops(RELAYS, 100_000, self.guards, used, RULES, self.draw, 0.0)
            assert chosen is not None
            used = SetUse(slot, (*used.others, *chosen.relays))
            hops.append(chosen.ids)
        return frozenset(path[-1] for path in hops)


def shared_by(pairs: Sequence[tuple[frozenset[bytes], frozenset[bytes]]]) -> list[int]:
    return [len(first & second) for first, second in pairs]


def advantage(own: Sequence[int], foreign: Sequence[int]) -> float:
    """How often a pair of one client shares more last relays than a pair of two does, ties half:
    the area under the curve of who guesses by this number; 0.5 is a coin."""
    wins = sum((a > b) + 0.5 * (a == b) for a in own for b in foreign)
    return wins / (len(own) * len(foreign))


def guessed(conversation: Callable[[Client], Iterator[frozenset[bytes]]]) -> float:
    """Over `CLIENTS` clients with two conversations each."""
    asked = []
    for seed in range(CLIENTS):
        sets = conversation(Client(seed))
        asked.append((next(sets), next(sets)))
    own = shared_by(asked)
    foreign = shared_by(
        [(asked[i][0], asked[(i + gap) % CLIENTS][1]) for gap in (1, 2, 3) for i in range(CLIENTS)]
    )
    return advantage(own, foreign)


def fresh(client: Client) -> Iterator[frozenset[bytes]]:
    while True:
        yield client.last_relays()


def kept(client: Client) -> Iterator[frozenset[bytes]]:
    relays = client.last_relays()
    while True:
        yield relays


def test_the_last_relays_of_two_conversations_do_not_name_their_client() -> None:
    """With 300 pairs of one client and 900 of two the standard error of the area is 0.019. That
    guards are kept out of last places gives away too little to be seen among 60 relays."""
    guess = guessed(fresh)
    print(f"a pair of one client shares more last relays than one of two: {guess:.3f}; coin 0.5")
    assert abs(guess - 0.5) < 0.06
    assert guessed(kept) > 0.99


def seen(door: Door, request: OutgoingRequest, routes: Sequence[Route]) -> list[bytes]:
    """What relays and model node hold of a question and its answer, all together: bytes on the
    link, ids, and what the model node opens and derives."""
    values: list[bytes] = [part for route in routes for part in door.arrived[route]]
    values += [route.link_id for route in routes]
    for stream in request.streams:
        received = open_clove(TARGET, SECRET, stream)
        values += [stream[COUNT_BYTES:], received.message_id[4:], received.clove.key_share]
        values += [received.path_key]
    return [*values, request.reply_key]


def windows(values: Sequence[bytes]) -> set[bytes]:
    """All that stands in them; frame numbers take 4 bytes."""
    return {v[i : i + WINDOW] for v in values for i in range(len(v) - WINDOW + 1)}


def question(door: Door, payload: bytes, relays: range) -> list[bytes]:
    request = door.request(payload)
    streams = zip(relays, request.streams, strict=True)
    routes = [door.stream(number, stream) for number, stream in streams]
    door.write(b"accepted")
    door.write(b"token")
    door.advance(0.3)
    again = request.sealer.attach(Attach(0, 0, 0), door.entropy)
    routes.append(door.stream(relays[0] + 50, again.data))
    door.finish()
    door.advance(1.0)
    return [*seen(door, request, routes), again.data[COUNT_BYTES:], again.path_key]


def test_what_all_of_them_log_of_two_questions_has_nothing_in_common() -> None:
    """The same words twice, of one client, to one model node, within a second."""
    door = Door()
    first = windows(question(door, b"the same words", range(N)))
    second = windows(question(door, b"the same words", range(N, 2 * N)))
    assert first & second == set()
    assert len(first) > 50_000


def test_the_log_would_show_a_value_that_is_used_twice() -> None:
    """The control: one request sent to two model nodes that know nothing of each other."""
    one, other = Door(seed=1), Door(seed=2)
    request = one.request()
    logs = [windows(seen(door, request, door.deliver(request, range(N)))) for door in (one, other)]
    assert len(logs[0] & logs[1]) > 1_000
