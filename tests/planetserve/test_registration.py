"""What a node sends to the ledger when it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from planetserve import registration
from planetserve.errors import (
    NetworkNotFound,
    OutcomeUnknown,
    PlanetServeError,
    TransactionRejected,
)
from planetserve.keys import Identity, identity_from
from planetserve.ledger import LedgerClient
from planetserve.light.proven import Proven
from planetserve.network import Network
from planetserve.records import CANDIDATE, RETIRED, NodeRecord
from planetserve.registration import ALREADY_REGISTERED, announce
from planetserve.statekeys import route_key, waiting_key
from planetserve.transactions import REGISTER, UPDATE, register
from tests.planetserve.ledger_servers import FOUR
from tests.planetserve.light_chain import header_at

NODE = identity_from(b"\7" * 96)
DATA = register(
    name="relay-1",
    roles=["relay"],
    onion_key=NODE.onion_public,
    transport_key=NODE.transport_public,
    endpoints={"overlay": "tcp://127.0.0.1:1"},
)
RECORD = NodeRecord.from_wire(
    {
        **DATA,
        "key": NODE.public_key,
        "registered": 1,
        "credential_expires": 0,
        "reputation_ppm": None,
        "status": CANDIDATE,
    }
)


class Ledger(LedgerClient):
    """Says what it is told of the node, and fails first as often as it is told."""

    def __init__(
        self, records: Mapping[bytes, NodeRecord], failures: list[PlanetServeError] | None = None
    ) -> None:
        super().__init__(Network("chain", "", ("http://127.0.0.1:9",), "tiny"))
        self.records = records
        self.failures = failures or []
        self.sent: list[str] = []

    async def read(self, keys: Sequence[bytes] = (), stores: Sequence[str] = ()) -> Proven:
        assert not stores
        shown = {key: self.records.get(key) for key in keys}
        wire = {key: None if node is None else node.to_wire() for key, node in shown.items()}
        return Proven(5, header_at(6, FOUR, FOUR), {}, wire, {})

    async def send(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> int:
        self.sent.append(kind)
        if self.failures:
            raise self.failures.pop(0)
        return 6


@pytest.mark.parametrize(
    ("record", "sent"),
    [
        (None, [REGISTER]),
        (RECORD, []),
        (replace(RECORD, name="relay-2"), [UPDATE]),
        (replace(RECORD, status=RETIRED), [REGISTER]),
    ],
)
@pytest.mark.parametrize("place", [route_key, waiting_key])
async def test_only_what_changed_is_sent(
    place: Callable[[bytes], bytes], record: NodeRecord | None, sent: list[str]
) -> None:
    ledger = Ledger({} if record is None else {place(NODE.id): record})
    await announce(ledger, NODE, DATA)
    assert ledger.sent == sent


async def test_it_waits_for_a_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for a state that shows its registration."""
    monkeypatch.setattr(registration, "RETRY_S", 0)
    failures = [
        NetworkNotFound("nobody"),
        OutcomeUnknown("perhaps", bytes(32)),
        TransactionRejected(ALREADY_REGISTERED, "it is"),
    ]
    ledger = Ledger({}, failures)
    await announce(ledger, NODE, DATA)
    assert ledger.sent == [REGISTER] * 4


async def test_a_refusal_is_raised() -> None:
    ledger = Ledger({}, [TransactionRejected(16, "in use")])
    with pytest.raises(TransactionRejected):
        await announce(ledger, NODE, DATA)
