"""The Typer application and the options that its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The network's ledger: who serves, who verifies, and what the probes said.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
NetworkFile = Annotated[
    Path | None, typer.Option("--network", help="The network file; otherwise it is searched for.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
NodeName = Annotated[
    str, typer.Argument(metavar="NODE", help="A name, a public key, an id or how one begins.")
]
Role = Annotated[str, typer.Option(help="model, relay or user.")]
VerifierKey = Annotated[Path, typer.Option("--key", help="The verifier's prober key file.")]
