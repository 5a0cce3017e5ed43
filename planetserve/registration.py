"""Announce a node on the ledger, once for each change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from planetserve.errors import PlanetServeError, TransactionRejected
from planetserve.keys import Identity
from planetserve.ledger import LedgerClient
from planetserve.logs import get_logger
from planetserve.records import RETIRED, NodeRecord
from planetserve.statekeys import route_key, waiting_key
from planetserve.transactions import REGISTER, UPDATE

RETRY_S = 1.0
MAX_RETRY_S = 15.0
VERIFIER_ROLES = ("prober", "verifier")
ALREADY_REGISTERED = 14
"""See `abci_app.core.codes`."""

log = get_logger()


async def announce(ledger: LedgerClient, identity: Identity, data: Mapping[str, Any]) -> None:
    """Register `identity` with `data` (see `planetserve.transactions.register`), or update what
    the ledger says of it; nothing is sent when that is the same. Waits, with longer and longer
    pauses, while no RPC server answers as it should. Raises `TransactionRejected`."""
    pause_s = RETRY_S
    while True:
        try:
            record = await _own_record(ledger, identity)
            if record is None or record.status == RETIRED:
                await ledger.send(identity, REGISTER, data)
                log.info("registered", name=data["name"])
            elif not _says(record, data):
                await ledger.send(identity, UPDATE, data)
                log.info("updated", name=data["name"])
            return
        except TransactionRejected as error:
            # The state that can be proven may not show the last blocks yet.
            if error.code != ALREADY_REGISTERED:
                raise
            await asyncio.sleep(RETRY_S)
        except PlanetServeError as error:
            log.warning("ledger_unreachable", reason=str(error), retry_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_RETRY_S)


async def _own_record(ledger: LedgerClient, identity: Identity) -> NodeRecord | None:
    """In which of two stores a node is depends on whether somebody endorses it."""
    keys = route_key(identity.id), waiting_key(identity.id)
    proven = await ledger.read(keys)
    found = [proven.records[key] for key in keys if proven.records[key] is not None]
    return NodeRecord.from_wire(found[0]) if found else None


def _says(record: NodeRecord, data: Mapping[str, Any]) -> bool:
    """A verifier's roles are its own besides those that it announces."""
    announced = record.to_wire()
    announced["roles"] = [role for role in record.roles if role not in VERIFIER_ROLES]
    return all(announced[name] == value for name, value in data.items())
