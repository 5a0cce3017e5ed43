"""The codec of the messages between model nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.core.load import Report
from modelnode.group_messages import (
    MAX_AGE_MS,
    MAX_CAPACITY,
    MAX_NUMBER,
    WINDOW_EVENTS,
    Ask,
    Cancel,
    Credit,
    Event,
    Gone,
    GroupMessage,
    Load,
    Ping,
    Pong,
    Request,
    Sync,
    Vouch,
    decode_message,
    encode_message,
)
from planetserve.encoding import encode
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId

ids = st.binary(min_size=16, max_size=16)
nodes = st.binary(min_size=20, max_size=20).map(NodeId)
small = st.integers(0, 1 << 20)
numbers = st.integers(0, MAX_NUMBER)
reports = st.builds(
    Report,
    small,
    small,
    st.integers(1, MAX_CAPACITY),
    small,
    small,
    small,
    small,
    small,
    small,
    st.booleans(),
)
messages = st.one_of(
    st.builds(Request, ids, st.binary(max_size=300)),
    st.builds(Credit, ids, st.integers(0, WINDOW_EVENTS)),
    st.builds(Cancel, ids),
    st.builds(Load, reports),
    st.builds(Sync, st.binary(max_size=300).map(lambda data: b"\x93" + data)),
    st.builds(Ping, numbers),
    st.builds(Ask, nodes),
    st.builds(Event, ids, st.binary(max_size=300)),
    st.builds(Gone, ids),
    st.builds(Pong, numbers, numbers),
    st.builds(Vouch, nodes, numbers, st.integers(0, MAX_AGE_MS)),
)


@given(messages)
def test_round_trip(message: GroupMessage) -> None:
    assert decode_message(encode_message(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        decode_message(data)
    except RemoteProtocolError:
        return


ID = bytes(16)
LOAD = {
    "kind": "load",
    "running": 0,
    "waiting": 0,
    "capacity": 1,
    "queued_tokens": 0,
    "prefill_us": 0,
    "decode_us": 0,
    "hold_ms": 0,
    "yours": 0,
    "cache_tokens": 0,
    "serving": True,
}


def test_what_is_refused_below_is_so_for_one_field() -> None:
    assert isinstance(decode_message(encode(LOAD)), Load)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"kind": "hello"},
        {"kind": "request", "id": ID},
        {"kind": "request", "id": ID, "body": "text"},
        {"kind": "request", "id": b"short", "body": b""},
        {"kind": "request", "id": ID, "body": bytes((256 << 10) + 1)},
        {"kind": "request", "id": ID, "body": b"", "more": 1},
        {"kind": "credit", "id": ID, "events": -1},
        {"kind": "credit", "id": ID, "events": WINDOW_EVENTS + 1},
        {"kind": "credit", "id": ID, "events": True},
        {"kind": "event", "id": ID, "data": bytes((64 << 10) + 2)},
        {"kind": "load", "running": 0, "waiting": 0},
        LOAD | {"running": 1 << 40},
        LOAD | {"capacity": 0},
        LOAD | {"capacity": MAX_CAPACITY + 1},
        LOAD | {"prefill_us": None},
        LOAD | {"decode_us": 1 << 60},
        LOAD | {"more": 1},
        LOAD | {"cache_tokens": -1},
        LOAD | {"serving": 1},
        {"kind": "ping", "number": -1},
        {"kind": "ask", "node": ID},
        {"kind": "pong", "number": 1},
        {"kind": "vouch", "node": bytes(20), "incarnation": 1, "age_ms": MAX_AGE_MS + 1},
        {"kind": ["ping"], "number": 1},
    ],
)
def test_what_the_format_does_not_say_is_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_message(encode(value))
