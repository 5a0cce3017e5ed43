"""`ps-ledger models | register-model`: what nodes may serve."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planetserve.ledger_cli.application import AsJson, NetworkFile, VerifierKey, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask, send
from planetserve.ledger_cli.display import show_json, show_table, show_verified

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.light.proven import Proven

DIGEST_DIGITS = re.compile(r"[0-9a-fA-F]{64}")

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="What nodes will announce.")]
Quantization = Annotated[str, typer.Option(help="The precision of the weights: Q8_0, bf16.")]
ContextTokens = Annotated[
    int, typer.Option(min=1, help="The longest prompt and reply together, in tokens.")
]
Weights = Annotated[
    Path | None, typer.Option(help="The weights' file, of which the SHA-256 is taken.")
]
WeightsDigest = Annotated[
    str | None, typer.Option(metavar="HEX", help="That SHA-256 itself, instead of --weights.")
]


@app.command()
def models(network: NetworkFile = None, as_json: AsJson = False) -> None:
    """The registered models and how many trusted nodes serve each."""

    async def read(ledger: LedgerClient) -> Proven:
        return await ledger.read(stores=["models", "routes", "verifiers"])

    proven = ask(network, read)
    with answers_of_expected_form():
        from planetserve.ledger_cli.lookup import name_in, names_of
        from planetserve.records import route_set

        routes = proven.stores["routes"].values()
        found = route_set(proven.height, proven.roots["routes"], routes)
        names = names_of(found, proven.stores["verifiers"].values())
        serving: dict[str, int] = {}
        for node in found.model_nodes():
            serving[node.model] = serving.get(node.model, 0) + 1
        records = list(proven.stores["models"].values())
        if as_json:
            listed = [{**item, "trusted_nodes": serving.get(item["name"], 0)} for item in records]
            show_json({"height": proven.height, "verified_height": proven.height, "models": listed})
            return
        rows = [
            [
                item["name"],
                item["quantization"],
                item["context_tokens"],
                "yes" if item["deterministic"] else "no",
                serving.get(item["name"], 0),
                f"height {item['registered']} by {name_in(names, item['by'])}",
                item["weights_digest"].hex()[:16],
            ]
            for item in records
        ]
    columns = [
        "model",
        "quantization",
        "context",
        "deterministic",
        "nodes",
        "registered",
        "weights",
    ]
    show_table(columns, rows)
    show_verified(proven.height)


@app.command()
def register_model(
    name: ModelName,
    quantization: Quantization,
    context_tokens: ContextTokens,
    key: VerifierKey,
    weights: Weights = None,
    weights_digest: WeightsDigest = None,
    network: NetworkFile = None,
) -> None:
    """Register a model once and for all: its name never changes its meaning (verifiers only).

    One whose replies are the same to the byte takes a vote: `ps-ledger propose model`.
    """
    from planetserve import transactions

    data = transactions.model(
        name=name,
        weights_digest=digest_of(weights, weights_digest),
        quantization=quantization,
        context_tokens=context_tokens,
        deterministic=False,
    )
    height = ask(network, lambda ledger: send(ledger, key, transactions.MODEL, data))
    typer.echo(f"nodes may serve {name} from height {height} on")


def digest_of(weights: Path | None, given: str | None) -> bytes:
    """Of the file or as given, of which there must be one. Raises `UsageError`."""
    import hashlib

    from planetserve.errors import UsageError

    if (weights is None) == (given is None):
        raise UsageError("name the model's weights by one of --weights and --weights-digest")
    if weights is not None:
        try:
            with weights.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise UsageError(f"cannot read {weights}: {error.strerror}") from error
    if given is None or DIGEST_DIGITS.fullmatch(given) is None:
        raise UsageError("--weights-digest takes the 64 hex digits of a SHA-256")
    return bytes.fromhex(given)
