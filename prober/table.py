"""What `ps-prober run` shows: a live table on a terminal, lines otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from planetserve.text import printable
from prober.service import Event


@dataclass(slots=True)
class _Row:
    epoch: int = 0
    prompt_bytes: int | None = None
    similarity_ppm: int | None = None
    credit_ppm: int | None = None
    reputation_ppm: int | None = None
    status: str = ""
    step: str = ""


class LiveTable:
    """One row a model node, redrawn with every event."""

    def __init__(self, console: Console) -> None:
        self._rows: dict[str, _Row] = {}
        self._names: dict[str, str] = {}
        self._live = Live(self._table(), console=console, refresh_per_second=4)

    def __enter__(self) -> Callable[[Event], None]:
        self._live.start()
        return self.observe

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def observe(self, event: Event) -> None:
        if event.what == "endorse":
            return
        row = self._rows.setdefault(event.node_id, _Row())
        self._names[event.node_id] = printable(event.node)
        row.epoch = event.epoch
        row.step = f"{event.what}: {printable(event.reason)}" if event.reason else event.what
        row.reputation_ppm = event.reputation_ppm
        row.status = event.status or ""
        if event.what == "probe":
            row.prompt_bytes = event.prompt_bytes
            row.similarity_ppm = event.similarity_ppm
            row.credit_ppm = event.credit_ppm
        self._live.update(self._table())

    def _table(self) -> Table:
        table = Table(caption="Ctrl-C stops the prober")
        for heading in (
            "Node",
            "Epoch",
            "Prompt",
            "Similarity",
            "C",
            "R on chain",
            "Status",
            "Step",
        ):
            right = heading in ("Epoch", "Prompt", "Similarity", "C", "R")
            table.add_column(heading, justify="right" if right else "left")
        for node_id, row in sorted(self._rows.items(), key=lambda item: self._names[item[0]]):
            table.add_row(
                self._names[node_id],
                str(row.epoch),
                "" if row.prompt_bytes is None else f"{row.prompt_bytes} B",
                fraction(row.similarity_ppm),
                fraction(row.credit_ppm),
                fraction(row.reputation_ppm),
                row.status,
                row.step,
            )
        return table


def fraction(value_ppm: int | None) -> str:
    """Millionths as a number of three places, nothing for None."""
    return "" if value_ppm is None else f"{value_ppm / 1_000_000:.3f}"


def print_line(event: Event) -> None:
    """One event for a log or a pipe."""
    parts = [f"epoch {event.epoch}", event.what, printable(event.node)]
    if event.prompt_bytes is not None:
        parts.append(f"prompt {event.prompt_bytes} B")
    for label, value in (
        ("similarity", event.similarity_ppm),
        ("C", event.credit_ppm),
        ("R", event.reputation_ppm),
    ):
        if value is not None:
            parts.append(f"{label} {fraction(value)}")
    parts += [text for text in (event.status, printable(event.reason)) if text]
    print("  ".join(parts), flush=True)


def print_json(event: Event) -> None:
    print(json.dumps(asdict(event)), file=sys.stdout, flush=True)
