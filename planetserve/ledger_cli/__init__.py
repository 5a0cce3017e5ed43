"""`ps-ledger`: ask the ledger, and write to it as a verifier or a node.

Every answer is proven against a header that more than 2/3 of the validators' power signed, or
refused with exit code 4. Each module below holds the commands of one subject; what they share is
in `conversation`, `lookup` and `display`.
"""

from __future__ import annotations

from planetserve.cli import run
from planetserve.ledger_cli import (
    chain,
    credentials,
    endorsing,
    epochs,
    evidence,
    models,
    nodes,
    proposals,
    proposing,
    reputation,
    rotating,
    transaction,
    verifying,
)
from planetserve.ledger_cli.application import app

__all__ = [
    "app",
    "chain",
    "credentials",
    "endorsing",
    "epochs",
    "evidence",
    "main",
    "models",
    "nodes",
    "proposals",
    "proposing",
    "reputation",
    "rotating",
    "transaction",
    "verifying",
]


def main() -> None:
    run(app)
