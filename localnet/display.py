"""What `ps-localnet` shows a person."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.table import Table

from localnet.health import Health
from localnet.plan import Layout
from localnet.state import State
from planetserve.network import DEFAULT_PLACE

MAX_TABLE_CHARACTERS = 500
QUESTION = "What is the capital of France?"


class Progress:
    """One line that changes on a terminal, a line for each change elsewhere. Writes to standard
    error, so that `--json` has standard output for itself."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def show(self, text: str) -> None:
        if not self._console.is_terminal:
            print(text, file=sys.stderr, flush=True)
        elif self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def print_processes(state: State, healths: Mapping[str, Health] | None = None) -> None:
    """A table of what runs where; with `healths`, how it is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["name", "pid", "http", "other addresses", *(["health"] if healths else [])]
    for column in columns:
        table.add_column(column, justify="right" if column == "pid" else "left", no_wrap=True)
    for process in state.processes:
        addresses = dict(process.addresses)
        http = f"http://{addresses.pop('http')}"
        others = "  ".join(f"{purpose} {address}" for purpose, address in addresses.items())
        pid = str(process.process.pid) if process.process else "-"
        row = [process.name, pid, http, others]
        if healths:
            health = healths[process.name]
            row.append("healthy" if health.healthy else f"NOT HEALTHY: {health.reason}")
        table.add_row(*row)
    # Never cut: a part of an address is worth nothing.
    wide = Console(highlight=False, width=MAX_TABLE_CHARACTERS, no_color=not sys.stdout.isatty())
    wide.print(table)


def print_ready(
    state: State, layout: Layout, idle_probers: tuple[str, ...], seconds: float
) -> None:
    print_processes(state)
    bin_folder = _short(Path(sys.executable).parent)
    network = _short(layout.network_file)
    found = layout.network_file.resolve() == (Path.cwd() / DEFAULT_PLACE).resolve()
    option = "" if found else f"--network {network} "
    print(f"\nReady after {seconds:.1f} s. Logs are in {_short(layout.logs)}.\n")
    print(f'Try:    {bin_folder}/ps-client ask {option}"{QUESTION}"')
    print(f"Look:   {bin_folder}/ps-ledger nodes {option}".rstrip())
    if idle_probers:
        key = _short(layout.key(idle_probers[0]))
        print(f"Probe:  {bin_folder}/ps-prober run --network {network} --key {key}")
    sys.stdout.flush()


def how_to_end(folder: Path) -> str:
    default = folder.resolve() == (Path.cwd() / DEFAULT_PLACE.parent).resolve()
    option = "" if default else f" --dir {_short(folder)}"
    return f"{_short(Path(sys.executable).parent)}/ps-localnet down{option}"


def _short(path: Path) -> str:
    """Relative where that is shorter; symlinks are kept, as `.venv/bin` must be."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
