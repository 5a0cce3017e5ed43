"""Answers of an RPC server that lies about their form."""

from __future__ import annotations

from typing import Any

import pytest

from planetserve.errors import RemoteProtocolError
from planetserve.ledger import LedgerClient
from planetserve.network import Network

NETWORK = Network("chain", "00" * 32, ("http://127.0.0.1:9",), "tiny")


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        {},
        {"response": []},
        {"response": {"code": float("inf")}},
        {"response": {"height": "x"}},
        {"response": {"value": 5}},
        {"response": {"value": "wRA="}},
    ],
)
async def test_a_malformed_answer_is_a_protocol_error(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(method: str, **params: Any) -> Any:
        return result

    async with LedgerClient(NETWORK) as ledger:
        monkeypatch.setattr(ledger._rpc, "call", answer)
        with pytest.raises(RemoteProtocolError):
            await ledger.query("/status")
