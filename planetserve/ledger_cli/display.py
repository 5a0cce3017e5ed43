"""Tables and lines for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from planetserve.fixedpoint import ONE_PPM

SHORT_ID = 12


def show_json(content: Any) -> None:
    import json

    typer.echo(json.dumps(hexed(content), indent=2))


def show_verified(height: int) -> None:
    """What every answer for people ends with."""
    typer.echo(f"verified at height {height}")


def show_pairs(pairs: Sequence[tuple[str, Any]]) -> None:
    width = max((len(name) for name, _ in pairs), default=0) + 2
    for name, value in pairs:
        typer.echo(f"{name:<{max(width, 12)}}{printable(value)}".rstrip())


def show_lines(lines: Sequence[str]) -> None:
    for line in lines:
        typer.echo(printable(line))


def show_table(columns: list[str], rows: list[list[Any]]) -> None:
    """A drawn table for a terminal, aligned columns for a pipe."""
    import sys

    cells = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in aligned([columns, *cells]):
            typer.echo(line)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def hexed(value: Any) -> Any:
    """`value` with its bytes as hex, ready for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {
            key.hex() if isinstance(key, bytes) else key: hexed(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [hexed(item) for item in value]
    return value


def printable(value: Any) -> str:
    """Text from the ledger is anyone's: what a terminal would act on is shown as ?."""
    return "".join(character if character.isprintable() else "?" for character in str(value))


def short(identifier: bytes) -> str:
    return identifier.hex()[:SHORT_ID]


def share(ppm: int | None) -> str:
    """Millionths with three digits, for tables."""
    return "-" if ppm is None else f"{ppm / ONE_PPM:.3f}"


def decimal(ppm: int, digits: int = 3) -> str:
    """Millionths as they are in formulas: exact, with at least `digits` digits: .680"""
    sign = "-" if ppm < 0 else ""
    whole, part = divmod(abs(ppm), ONE_PPM)
    return f"{sign}{whole or ''}.{f'{part:06d}'.rstrip('0').ljust(digits, '0')}"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
