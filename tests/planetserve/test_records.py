"""What a reader takes from an RPC server, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.encoding import Value
from planetserve.errors import RemoteProtocolError
from planetserve.keys import identity_from
from planetserve.records import NodeRecord, chain_status, route_set

IDENTITY = identity_from(bytes(range(96)))
RECORD: dict[str, Any] = {
    "key": IDENTITY.public_key,
    "name": "n",
    "roles": ["model"],
    "onion_key": bytes(32),
    "transport_key": bytes(32),
    "endpoints": {"overlay": "tcp://127.0.0.1:1"},
    "model": "tiny",
    "operator": "",
    "registered": 1,
    "credential_expires": 9,
    "reputation_ppm": 500_000,
    "status": "trusted",
}
STATUS: dict[str, Any] = {
    "height": 1,
    "epoch": 0,
    "epoch_start": 1,
    "commit_end": 16,
    "reveal_end": 25,
    "epoch_end": 26,
    "verifiers": [{"id": bytes(20)}],
}
JUNK = (
    st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=40) | st.lists(st.none())
)


def test_a_record_round_trips() -> None:
    record = NodeRecord.from_wire(RECORD)
    assert record.to_wire() == RECORD
    assert record.id == IDENTITY.id
    assert record.routable("model")
    assert not record.routable("relay")


@given(st.sampled_from(sorted(RECORD)), JUNK)
def test_a_field_of_another_type_is_refused_or_shown_as_it_is(name: str, value: Value) -> None:
    try:
        record = NodeRecord.from_wire({**RECORD, name: value})
    except RemoteProtocolError:
        return
    assert record.to_wire()[name] == value


@pytest.mark.parametrize("name", sorted(RECORD))
def test_a_missing_field_is_refused(name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        NodeRecord.from_wire({key: value for key, value in RECORD.items() if key != name})


@given(st.sampled_from(sorted(STATUS)), JUNK)
def test_a_status_that_is_none_is_refused(name: str, value: Value) -> None:
    try:
        status = chain_status({**STATUS, name: value})
    except RemoteProtocolError:
        return
    assert name == "verifiers" or getattr(status, name) == value


@pytest.mark.parametrize("value", [None, 1, [], "x", {}])
def test_what_is_no_map_is_no_record_and_no_status(value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        NodeRecord.from_wire(value)
    with pytest.raises(RemoteProtocolError):
        chain_status(value)


def test_the_route_sets_hash_covers_the_records_and_not_the_height() -> None:
    first, later = route_set(5, [RECORD]), route_set(6, [RECORD])
    changed = route_set(5, [{**RECORD, "reputation_ppm": 1}])
    assert first.hash == later.hash
    assert first.hash != changed.hash
    assert first.find(IDENTITY.id) == first.nodes[0]
    assert first.find(bytes(20)) is None
    assert first.model_nodes("tiny") == list(first.nodes)
    assert first.model_nodes("other") == first.relays() == []
