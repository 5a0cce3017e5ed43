"""A peer that breaks the sync of its group harms nobody's word but its own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.sync_world import MODEL, SCHEME, Network, identities
from modelnode.core.sync import Effect, Fault, Holds, Reader, Send
from modelnode.core.sync_limits import ITEM_UNITS, UNITS_BURST, UNITS_PER_S
from modelnode.core.sync_log import Log
from modelnode.core.sync_messages import (
    DOMAIN,
    MAX_BACK,
    MAX_CHUNKS,
    MAX_ITEMS,
    Ask,
    Delta,
    Emptied,
    Item,
    Named,
    Page,
    Resumed,
    Seal,
    SyncMessage,
    Told,
    decode_sync,
    encode_sync,
    sealed,
    tag_of,
)
from modelnode.core.sync_state import MAX_STATE_BYTES
from planetserve.keys import Identity
from tests.modelnode.test_sync_messages import messages

ORIGIN, OTHER = identities(2)
EPOCH = 70_000


def nothing(identifier: bytes) -> None:
    return None


def log(identity: Identity = ORIGIN) -> Log:
    return Log(
        identity.public_key, MODEL, SCHEME, EPOCH, 0.0, lambda data: identity.sign(DOMAIN, data)
    )


class Pair:
    """A reader that has heard the empty log of `ORIGIN`."""

    def __init__(self) -> None:
        self.reader = Reader(ORIGIN.id, MODEL, SCHEME, 0.0, nothing)
        self.reader.connected(0.0)
        for data in log().answer(OTHER.id, Ask(0, 0), 0.0):
            self.receive(decode_sync(data))
        assert self.reader.position == (EPOCH, 0)

    def receive(self, message: SyncMessage, now_s: float = 0.0) -> list[Effect]:
        return self.reader.receive(message, encode_sync(message), now_s)

    def delta(self, *items: Item, now_s: float = 0.0) -> list[Effect]:
        _, sequence = self.reader.position
        return self.receive(Delta(tag_of(EPOCH), sequence + 1, items), now_s)


@pytest.mark.parametrize(
    "item",
    [
        Told(0, 1, 1, b"ab"),
        Told(3, 0, 0, b"ab"),
        Told(0, 2, 1, b"ab"),
        Emptied(3),
    ],
)
def test_an_item_that_refers_to_nothing_costs_the_origin_its_state(item: Item) -> None:
    pair = Pair()
    pair.delta(Named(0, OTHER.id))
    effects = pair.delta(item, now_s=1.0)
    assert effects[0] == Fault("malformed")
    assert effects[1:] == [Send(encode_sync(Ask(0, 0)))]
    assert pair.reader.position == (0, 0)


def test_more_than_was_told_cannot_be_kept() -> None:
    pair = Pair()
    pair.delta(Named(0, OTHER.id), Told(0, 0, 0, b"abcd"))
    assert pair.delta(Told(0, 1, 3, b""), now_s=1.0)[0] == Fault("malformed")


def seal(identity: Identity, scheme: str = "text/64", digest: bytes = bytes(16)) -> Seal:
    unsigned = Seal(scheme, EPOCH, 0, digest, identity.public_key)
    signature = identity.sign(DOMAIN, sealed(MODEL, unsigned))
    return Seal(scheme, EPOCH, 0, digest, identity.public_key, signature)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (seal(OTHER), "signature"),
        (Seal("text/64", EPOCH, 0, bytes(16), ORIGIN.public_key), "signature"),
        (seal(ORIGIN, "tokens/16"), "scheme"),
    ],
)
def test_a_false_seal_mutes_the_origin_for_a_minute(message: Seal, cause: str) -> None:
    pair = Pair()
    assert pair.receive(message, 1.0) == [Fault(cause)]
    assert pair.delta(Named(0, OTHER.id), Told(0, 0, 0, b"ab"), now_s=60.0) == []
    assert pair.delta(Named(0, OTHER.id), now_s=62.0) == [Send(encode_sync(Ask(0, 0)))]


def test_a_digest_that_differs_makes_the_reader_start_anew() -> None:
    pair = Pair()
    assert pair.receive(seal(ORIGIN), 1.0) == [Fault("digest"), Send(encode_sync(Ask(0, 0)))]
    assert pair.reader.position == (0, 0)


def test_pages_that_nobody_asked_for_are_not_read() -> None:
    pair = Pair()
    page = Page(EPOCH + 1, 5, 0, 1, bytes(16), (), ())
    assert pair.receive(page, 100.0) == [Fault("unasked")]
    assert pair.reader.position == (EPOCH, 0)


def test_a_peer_that_talks_too_much_is_not_heard_meanwhile() -> None:
    pair = Pair()
    pair.delta(Named(0, OTHER.id))
    heard = 0
    for number in range(100 * MAX_ITEMS):
        effects = pair.delta(*[Told(0, 0, 0, number.to_bytes(2, "big"))] * MAX_ITEMS, now_s=1.0)
        if effects == [Fault("rate")]:
            break
        heard += len(effects)
    assert heard <= UNITS_BURST / ITEM_UNITS + MAX_ITEMS
    assert pair.delta(Told(0, 0, 0, b"ab"), now_s=1.0) == [Fault("rate")]
    assert pair.delta(Told(0, 0, 0, b"ab"), now_s=2.0) == [Holds(OTHER.id, b"ab")]
    pair.reader.charge(int(1_000 * UNITS_PER_S), 2.0)
    assert pair.delta(Told(0, 0, 0, b"ab"), now_s=3.0) == [Fault("rate")]


def test_what_a_reader_keeps_of_an_origin_is_bounded() -> None:
    pair = Pair()
    pair.delta(Named(0, OTHER.id))
    now_s = 0.0
    for number in range(200):
        now_s += 10.0
        long = number.to_bytes(2, "big") * MAX_CHUNKS
        pair.delta(Told(0, 0, 0, long), now_s=now_s)
        # Short ones that repeat all of it.
        pair.delta(*[Told(0, 1, MAX_CHUNKS - 1, b"ab")] * 64, now_s=now_s)
    kept = [path for _, path in pair.reader.held()]
    assert sum(map(len, kept)) <= MAX_STATE_BYTES
    for number in range(3_000):
        now_s += 1.0
        pair.delta(Told(0, 0, 0, number.to_bytes(2, "big")), now_s=now_s)
    assert len(pair.reader.held()) <= MAX_BACK


def test_a_path_that_goes_on_from_an_unknown_one_is_asked_for_then_everything() -> None:
    pair = Pair()
    pair.delta(Named(0, OTHER.id))
    asked = [
        type(decode_sync(effect.data)).__name__
        for step in range(1, 6)
        for effect in pair.delta(Resumed(0, bytes(6), b"ab"), now_s=float(step))
        if isinstance(effect, Send)
    ]
    assert asked[:4] == ["Lack", "Lack", "Lack", "Ask"]
    assert pair.reader.position == (0, 0)


def test_the_word_of_one_peer_about_another_drops_only_its_own() -> None:
    network = Network(3)
    liar, victim, reader = network.ids
    network.nodes[reader].send(victim, b"abcdef", network.now_s)
    network.nodes[liar].send(victim, b"abcdefgh", network.now_s)
    network.run(1.0)
    owner = network.ids.index(victim)
    assert network.nodes[reader].tree.match(b"abcdefgh") == {owner: 4}
    network.nodes[liar].sync.log.emptied(victim, network.now_s)
    network.run(1.0)
    assert network.nodes[reader].tree.match(b"abcdefgh") == {owner: 3}


@given(st.lists(messages, max_size=30), st.integers(0, 1 << 30))
@settings(max_examples=100, deadline=None)
def test_any_messages_in_any_order_are_survived(sent: list[SyncMessage], seed: int) -> None:
    source = random.Random(seed)
    pair = Pair()
    pair.delta(Named(0, OTHER.id), Told(0, 0, 0, b"abcd"))
    now_s = 0.0
    for message in sent:
        now_s += source.random()
        if isinstance(message, Delta) and source.random() < 0.8:
            message = Delta(tag_of(EPOCH), pair.reader.position[1] + 1, message.items)
        for effect in pair.receive(message, now_s):
            if isinstance(effect, Send):
                assert isinstance(decode_sync(effect.data), Ask) or len(effect.data) < 1_000
    for _, path in pair.reader.held():
        assert 0 < len(path) <= 2 * MAX_CHUNKS


def test_an_origin_answers_seldom_and_drops_what_is_too_much() -> None:
    origin = log()
    for number in range(5_000):
        origin.tell(OTHER.id, number.to_bytes(4, "big"), 0.0)
    assert origin.untold == 3_000
    first = origin.messages(1.0)
    assert 0 < sum(map(len, first)) < 200_000
    assert origin.answer(OTHER.id, Ask(0, 0), 1.0)
    assert origin.answer(OTHER.id, Ask(0, 0), 1.3) == []
    assert origin.answer(OTHER.id, Ask(EPOCH, 1), 1.5)
    assert origin.answer(OTHER.id, Ask(0, 0), 1.9) == []
    assert origin.answer(OTHER.id, Ask(EPOCH, 1 << 50), 2.5)
