"""`ps-ledger evidence`: show the ledger what a node has signed and should not have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planetserve.ledger_cli.application import NetworkFile, VerifierKey, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask, send
from planetserve.ledger_cli.display import printable

if TYPE_CHECKING:
    from planetserve.evidence import Terms
    from planetserve.ledger import LedgerClient
    from planetserve.records import NodeRecord

MAX_FILE_BYTES = 1 << 20


@app.command()
def evidence(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="One or two transcripts, one JSON object a line."),
    ],
    key: VerifierKey,
    signed_by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="The public key that signed, if the node has rotated it since."
        ),
    ] = None,
    network: NetworkFile = None,
) -> None:
    """Convict a node by replies that it signed (verifiers only).

    FILE holds lines of a prober's transcripts: one of a reply that its request forbids, or two of
    one request that were answered differently. They are judged here first; nothing is sent, and
    no question made public, unless they prove misconduct.
    """
    from planetserve import transactions

    transcripts = read_transcripts(file)

    async def write(ledger: LedgerClient) -> tuple[NodeRecord, str, int]:
        accused, breach, data = await _judged(ledger, transcripts, signed_by)
        return accused, breach, await send(ledger, key, transactions.EVIDENCE, data)

    accused, breach, height = ask(network, write)
    typer.echo(f"{printable(accused.name)} is convicted at height {height}: {breach}")


def read_transcripts(file: Path) -> list[dict[str, Any]]:
    """Raises `UsageError` unless the file holds one transcript or two."""
    import json

    from planetserve.errors import UsageError

    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        lines = [json.loads(line) for line in content.splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} does not hold one JSON object a line") from error
    if len(content) > MAX_FILE_BYTES or not 1 <= len(lines) <= 2:
        raise UsageError(f"{file} must hold one transcript, or two of the same request")
    if not all(isinstance(line, dict) for line in lines):
        raise UsageError(f"{file} does not hold one JSON object a line")
    return lines


async def _judged(
    ledger: LedgerClient, transcripts: Sequence[dict[str, Any]], signed_by: str | None
) -> tuple[NodeRecord, str, dict[str, Any]]:
    """The accused, the breach and the transaction's data. Raises `UsageError` when the ledger
    would refuse the evidence."""
    from planetserve import evidence as rules
    from planetserve.errors import UsageError
    from planetserve.ledger_cli.lookup import every_node
    from planetserve.ledger_cli.nodes import find_or_follow

    proven = await ledger.read(stores=["models", "routes", "waiting"])
    found = every_node(proven)
    nodes = {str(item.get("node", "")) for item in transcripts}
    requests = {str(item.get("request", "")) for item in transcripts}
    if len(nodes) != 1 or len(requests) != 1:
        raise UsageError("two transcripts must be of one node and one request")
    accused = await find_or_follow(ledger, found, nodes.pop())
    kind = rules.CONFLICT if len(transcripts) == 2 else rules.FORBIDDEN
    data = evidence_data(
        ledger.network.chain_id, accused, kind, requests.pop().encode(), transcripts, signed_by
    )
    with answers_of_expected_form():
        terms = {
            str(record["name"]): rules.Terms(record["context_tokens"], record["deterministic"])
            for record in proven.stores["models"].values()
        }
    return accused, _breach(ledger.network.chain_id, data, terms), data


def evidence_data(
    chain_id: str,
    accused: NodeRecord,
    kind: str,
    request: bytes,
    transcripts: Sequence[dict[str, Any]],
    signed_by: str | None,
) -> dict[str, Any]:
    """The transaction that transcripts make: the statements that the node signed are put together
    from them again. Raises `UsageError`."""
    from planetserve.errors import PlanetServeError, UsageError
    from planetserve.messages import Usage, state_reply
    from planetserve.transactions import evidence as build

    try:
        key = accused.key if signed_by is None else bytes.fromhex(signed_by)
        statements = [
            {
                "statement": state_reply(
                    chain_id,
                    request,
                    item["reply"],
                    item["finish_reason"],
                    item["model"],
                    Usage(item["prompt_tokens"], item["completion_tokens"], item["cached_tokens"]),
                ).encode(),
                "signature": bytes.fromhex(item["signature"]),
            }
            for item in transcripts
        ]
    except (KeyError, TypeError, ValueError, AttributeError, PlanetServeError) as error:
        raise UsageError(
            "a transcript needs reply, finish_reason, model, prompt_tokens, completion_tokens, "
            "cached_tokens and signature, and --signed-by a key of 64 hex digits"
        ) from error
    return build(accused=accused.id, key=key, kind=kind, request=request, statements=statements)


def _breach(chain_id: str, data: dict[str, Any], terms: dict[str, Terms]) -> str:
    from planetserve.errors import UsageError
    from planetserve.evidence import NotEvidence, SignedStatement, judge

    signed = [SignedStatement(**item) for item in data["statements"]]
    try:
        judgement = judge(chain_id, data["key"], data["kind"], data["request"], signed, terms.get)
    except NotEvidence as refusal:
        raise UsageError(f"this proves nothing, and nothing was sent: {refusal}") from refusal
    return judgement.breach
