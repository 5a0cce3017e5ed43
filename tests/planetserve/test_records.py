"""What a reader takes from an RPC server, and what it refuses."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.encoding import Value
from planetserve.errors import RemoteProtocolError
from planetserve.keys import identity_from, node_id
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
VERIFIER: dict[str, Any] = {
    "benched": -1,
    "consensus_key": bytes(32),
    "former": [],
    "key": IDENTITY.public_key,
    "name": "v",
    "power": 10,
    "trust_ppm": 1_000_000,
    "voted_power": 10,
}
MAIN: dict[str, Any] = {
    "chain_id": "chain",
    "version": 1,
    "params": {"epoch_blocks": 25, "commit_blocks": 15},
}
EPOCH: dict[str, Any] = {"epoch": 2, "start": 51, "seed": bytes(32), "sample_ppm": 500_000}
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


def test_a_status_says_where_the_epoch_s_windows_are() -> None:
    status = chain_status(60, MAIN, EPOCH, [VERIFIER])
    assert (status.height, status.chain_id, status.version, status.epoch) == (60, "chain", 1, 2)
    windows = (status.epoch_start, status.commit_end, status.reveal_end, status.epoch_end)
    assert windows == (51, 66, 75, 76)
    assert (status.seed, status.sample_ppm) == (bytes(32), 500_000)
    (verifier,) = status.verifiers
    assert (verifier.id, verifier.power, verifier.benched) == (IDENTITY.id, 10, -1)


def test_a_status_s_verifiers_are_in_the_order_of_their_ids() -> None:
    others = [{**VERIFIER, "key": bytes([number]) * 32} for number in range(5)]
    status = chain_status(1, MAIN, EPOCH, others)
    ids = [verifier.id for verifier in status.verifiers]
    assert ids == sorted(node_id(bytes([number]) * 32) for number in range(5))


@given(st.sampled_from(sorted({*MAIN, *EPOCH, *VERIFIER})), JUNK)
def test_a_status_of_other_types_is_refused_or_read(name: str, value: Value) -> None:
    changed = [
        {**record, name: value} if name in record else record for record in (MAIN, EPOCH, VERIFIER)
    ]
    with contextlib.suppress(RemoteProtocolError):
        chain_status(1, changed[0], changed[1], [changed[2]])


@pytest.mark.parametrize("name", sorted({*MAIN, *EPOCH, *VERIFIER} - {"former"}))
def test_a_status_that_lacks_something_is_refused(name: str) -> None:
    main, epoch, verifier = (
        {key: value for key, value in record.items() if key != name}
        for record in (MAIN, EPOCH, VERIFIER)
    )
    with pytest.raises(RemoteProtocolError):
        chain_status(1, main, epoch, [verifier])


@pytest.mark.parametrize("value", [None, 1, [], "x", {}])
def test_what_is_no_map_is_no_record_and_no_status(value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        NodeRecord.from_wire(value)
    for main, epoch, verifiers in (
        (value, EPOCH, []),
        (MAIN, value, []),
        (MAIN, EPOCH, [value]),
    ):
        with pytest.raises(RemoteProtocolError):
            chain_status(1, main, epoch, verifiers)


def test_a_route_set_is_named_by_its_root_and_ordered_by_id() -> None:
    others = [{**RECORD, "key": bytes([number]) * 32, "roles": ["relay"]} for number in range(4)]
    routes = route_set(5, b"r" * 32, [RECORD, *others])
    assert (routes.height, routes.hash) == (5, b"r" * 32)
    assert list(routes.nodes) == sorted(routes.nodes, key=lambda node: node.id)
    own = routes.find(IDENTITY.id)
    assert own is not None
    assert routes.find(bytes(20)) is None
    assert routes.model_nodes("tiny") == routes.model_nodes() == [own]
    assert routes.model_nodes("other") == []
    assert len(routes.relays()) == 4


@pytest.mark.parametrize(
    ("status", "expires", "height", "admitted"),
    [
        ("trusted", 9, 10, True),
        ("untrusted", 0, 10, True),
        ("candidate", 9, 9, True),
        ("candidate", 9, 10, False),
        ("candidate", 0, 1, False),
        ("revoked", 99, 1, False),
        ("retired", 99, 1, False),
    ],
)
def test_whom_verifiers_vouch_for(status: str, expires: int, height: int, admitted: bool) -> None:
    wire = {**RECORD, "status": status, "credential_expires": expires}
    record = NodeRecord.from_wire(wire)
    assert record.admitted(height) == admitted
    assert record.routable("model") == (status == "trusted")
