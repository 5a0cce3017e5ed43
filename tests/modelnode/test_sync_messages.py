"""The messages of sync: each has one form, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelnode.core.sync_messages import (
    MAX_BACK,
    MAX_CHUNKS,
    MAX_ITEMS,
    MAX_NUMBER,
    MAX_OWNERS,
    Ask,
    Beat,
    Delta,
    Emptied,
    Lack,
    Named,
    Owner,
    Page,
    Paths,
    Resumed,
    Seal,
    SyncMessage,
    Told,
    decode_sync,
    encode_sync,
    sealed,
    signed_by,
)
from planetserve.encoding import encode
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId, identity_from

numbers = st.integers(0, MAX_NUMBER)
owners = st.integers(0, MAX_OWNERS - 1)
paths = st.binary(min_size=1, max_size=20).map(lambda data: data * 2)
nodes = st.binary(min_size=20, max_size=20).map(NodeId)
ids = st.binary(min_size=6, max_size=6)
told = st.one_of(
    st.builds(Told, owners, st.just(0), st.just(0), paths),
    st.builds(
        Told,
        owners,
        st.integers(1, MAX_BACK),
        st.integers(1, MAX_CHUNKS - 20),
        paths | st.just(b""),
    ),
)
items = st.one_of(
    told,
    st.builds(Resumed, owners, ids, paths),
    st.builds(Named, owners, nodes),
    st.builds(Emptied, owners),
)
messages = st.one_of(
    st.builds(
        Delta,
        st.integers(0, 0xFFFF),
        st.integers(1, MAX_NUMBER),
        st.lists(items, min_size=1, max_size=5).map(tuple),
    ),
    st.builds(Beat, st.integers(0, 0xFFFF), numbers),
    st.builds(
        Seal,
        st.sampled_from(["text/64", "tokens/16"]),
        st.integers(1, MAX_NUMBER),
        numbers,
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=64, max_size=64),
    ),
    st.builds(
        Page,
        st.integers(1, MAX_NUMBER),
        numbers,
        st.just(1),
        st.integers(2, 5),
        st.binary(min_size=16, max_size=16),
        st.lists(st.builds(Owner, owners, nodes, numbers), max_size=3).map(tuple),
        st.lists(told, max_size=3).map(tuple),
    ),
    st.builds(Ask, numbers, numbers),
    st.builds(Lack, st.lists(ids, min_size=1, max_size=3).map(tuple)),
    st.builds(Paths, st.lists(paths, min_size=1, max_size=3).map(tuple)),
)


@given(messages)
def test_round_trip(message: SyncMessage) -> None:
    assert decode_sync(encode_sync(message)) == message


@given(messages, st.data())
@settings(max_examples=300)
def test_a_changed_message_is_refused_or_another_message(
    message: SyncMessage, data: st.DataObject
) -> None:
    encoded = bytearray(encode_sync(message))
    place = data.draw(st.integers(0, 8 * len(encoded) - 1))
    changed = bytes(encoded[: place // 8])
    if data.draw(st.booleans()):
        encoded[place // 8] ^= 1 << place % 8
        changed = bytes(encoded)
    try:
        read = decode_sync(changed)
    except RemoteProtocolError:
        return
    assert read != message
    assert encode_sync(read) == changed


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        assert encode_sync(decode_sync(data)) == data
    except RemoteProtocolError:
        return


ID, KEY = bytes(16), bytes(32)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        [7, 1, 1],
        [True, 1, 1],
        [0, 1, 1, []],
        [0, 1, 0, [[0]]],
        [0, 0x10000, 1, [[0]]],
        [0, 1, 1, [[0]] * (MAX_ITEMS + 1)],
        [0, 1, 1, [[MAX_OWNERS]]],
        [0, 1, 1, [[0, bytes(19)]]],
        [0, 1, 1, [[0, 0, 0, b""]]],
        [0, 1, 1, [[0, 0, 0, b"odd"]]],
        [0, 1, 1, [[0, 0, 1, b"ok"]]],
        [0, 1, 1, [[0, 1, 0, b"ok"]]],
        [0, 1, 1, [[0, MAX_BACK + 1, 1, b"ok"]]],
        [0, 1, 1, [[0, 1, MAX_CHUNKS, b"ok"]]],
        [0, 1, 1, [[None, 0, 0, b"ok"]]],
        [0, 1, 1, [[0, 0, 0, bytes(2 * MAX_CHUNKS + 2)]]],
        [0, 1, 1, [[0, bytes(5), b"ok"]]],
        [0, 1, 1, [[0, bytes(6), b""]]],
        [0, 1, 1, [[0, 0, 0, b"ok", 1]]],
        [2, "text/64", 0, 0, ID, KEY, bytes(64)],
        [2, "x" * 17, 1, 0, ID, KEY, bytes(64)],
        [2, "text/64", 1, 0, ID, KEY, bytes(63)],
        [3, 1, 1, 1, 1, ID, [], []],
        [3, 1, 1, 0, 0, ID, [], []],
        [3, 1, 1, 0, 129, ID, [], []],
        [3, 1, 1, 0, 1, ID, [[0, bytes(20)]], []],
        [3, 1, 1, 0, 1, ID, [], [[0]]],
        [4, -1, 0],
        [4, 0, MAX_NUMBER + 1],
        [5, []],
        [5, [bytes(7)]],
        [6, []],
        [6, [b""]],
        [6, [b"odd"]],
    ],
)
def test_what_the_format_does_not_say_is_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_sync(encode(value))


def test_a_seal_is_signed_by_its_origin_for_its_group() -> None:
    identity, other = identity_from(bytes(96)), identity_from(b"\1" * 96)
    seal = Seal("text/64", 5, 6, bytes(16), identity.public_key)
    signature = identity.sign("planetserve/sync/v1", sealed("a-model", seal))
    seal = Seal("text/64", 5, 6, bytes(16), identity.public_key, signature)
    assert signed_by(seal, identity.id, "a-model")
    assert not signed_by(seal, identity.id, "another")
    assert not signed_by(seal, other.id, "a-model")
    for changed in (
        Seal("text/32", 5, 6, bytes(16), identity.public_key, signature),
        Seal("text/64", 4, 6, bytes(16), identity.public_key, signature),
        Seal("text/64", 5, 7, bytes(16), identity.public_key, signature),
        Seal("text/64", 5, 6, b"\1" * 16, identity.public_key, signature),
        Seal("text/64", 5, 6, bytes(16), other.public_key, signature),
    ):
        assert not signed_by(changed, identity.id, "a-model")
