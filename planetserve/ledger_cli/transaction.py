"""`ps-ledger tx HASH`: a transaction and how it ended, both proven."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planetserve.ledger_cli.application import AsJson, NetworkFile, app
from planetserve.ledger_cli.codes import meaning
from planetserve.ledger_cli.conversation import ask
from planetserve.ledger_cli.display import hexed, show_json, show_pairs, show_verified

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.light.proven import ProvenTransaction
    from planetserve.transactions import Transaction

HASH_DIGITS = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
NANOSECONDS = 1_000_000_000
MAX_SHOWN = 200
"""Characters of one value; --json shows all."""


@app.command()
def tx(
    transaction_hash: Annotated[
        str, typer.Argument(metavar="HASH", help="The transaction's SHA-256, 64 hex digits.")
    ],
    network: NetworkFile = None,
    as_json: AsJson = False,
) -> None:
    """A transaction, the block that holds it and how it ended."""
    from planetserve.errors import UsageError

    match = HASH_DIGITS.fullmatch(transaction_hash)
    if match is None:
        raise UsageError("HASH is the 64 hex digits of a transaction's SHA-256")
    digest = bytes.fromhex(match[1])

    async def read(ledger: LedgerClient) -> tuple[ProvenTransaction, str]:
        found = await ledger.transaction(digest)
        return found, await _sender_name(ledger, found)

    found, sender_name = ask(network, read)
    content = transaction_json(found, sender_name)
    if as_json:
        show_json(content)
        return
    pairs = [
        ("transaction", content["hash"]),
        ("height", f"{found.height}, number {found.index} in the block of {content['time']}"),
        ("code", f"{found.code}: {content['meaning']}"),
    ]
    if found.code and found.log and found.log != content["meaning"]:
        pairs.append(("", f"one server's words, not proven: {found.log}"))
    if content["kind"] is None:
        pairs.append(("content", f"{len(found.raw)} bytes that are no transaction of the ledger"))
    else:
        sender = f"{sender_name} {content['sender']}" if sender_name else content["sender"]
        pairs += [("kind", content["kind"]), ("sender", sender), ("nonce", content["nonce"])]
        pairs += [(f"  {name}", _shortened(value)) for name, value in content["data"].items()]
    show_pairs(pairs)
    show_verified(found.height)


def transaction_json(found: ProvenTransaction, sender_name: str) -> dict[str, Any]:
    """The form for programs; `kind` and what follows are None for bytes that are no transaction."""
    from planetserve.keys import node_id

    decoded = decoded_or_none(found.raw)
    seconds, rest = divmod(found.header.time_ns, NANOSECONDS)
    time = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "hash": found.hash.hex(),
        "height": found.height,
        "verified_height": found.height,
        "index": found.index,
        "time": f"{time}.{rest // 1_000_000:03d}Z",
        "code": found.code,
        "meaning": meaning(found.code),
        "log": found.log,
        "kind": None if decoded is None else decoded.kind,
        "sender": None if decoded is None else node_id(decoded.key).hex(),
        "sender_name": sender_name or None,
        "key": None if decoded is None else decoded.key.hex(),
        "nonce": None if decoded is None else decoded.nonce,
        "data": None if decoded is None else hexed(decoded.data),
        "bytes": len(found.raw),
    }


def decoded_or_none(raw: bytes) -> Transaction | None:
    """A block may hold a transaction that the ledger refused as malformed."""
    from planetserve.encoding import EncodingError
    from planetserve.transactions import decode_transaction

    try:
        return decode_transaction(raw)
    except EncodingError:
        return None


async def _sender_name(ledger: LedgerClient, found: ProvenTransaction) -> str:
    """Today's name of the key that signed, empty for none."""
    from planetserve.keys import node_id
    from planetserve.ledger_cli.lookup import read_nodes

    decoded = decoded_or_none(found.raw)
    if decoded is None:
        return ""
    record = (await read_nodes(ledger)).find(node_id(decoded.key))
    return "" if record is None else record.name


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
