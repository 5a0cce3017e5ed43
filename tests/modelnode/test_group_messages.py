"""The codec of the messages between model nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.balancing import NodeLoad
from modelnode.group_messages import (
    WINDOW_EVENTS,
    Cancel,
    Credit,
    Event,
    GroupMessage,
    Load,
    Request,
    decode_message,
    encode_message,
)
from planetserve.encoding import encode
from planetserve.errors import RemoteProtocolError

ids = st.binary(min_size=16, max_size=16)
small = st.integers(0, 1 << 20)
messages = st.one_of(
    st.builds(Request, ids, st.binary(max_size=300)),
    st.builds(Credit, ids, st.integers(0, WINDOW_EVENTS)),
    st.builds(Cancel, ids),
    st.builds(Load, st.builds(NodeLoad, small, small, small)),
    st.builds(Event, ids, st.binary(max_size=300)),
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
        {"kind": "load", "running": 1 << 40, "waiting": 0, "capacity": 1},
    ],
)
def test_what_the_format_does_not_say_is_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_message(encode(value))
