"""What a benchmark reports: figures, each with its limit and, where there is one, its peer.

The JSON form is fixed: {"name", "machine", "met", "figures": [{"name", "value", "unit", "peer",
"ratio", "limit", "met"}]}.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. With a `peer` the limit holds for value / peer, else for the value;
    None as limit only reports. Smaller is better unless `at_least`."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    peer: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        return self.value / self.peer if self.peer else None

    @property
    def met(self) -> bool:
        if self.limit is None:
            return True
        judged = self.value if self.ratio is None else self.ratio
        return judged >= self.limit if self.at_least else judged <= self.limit

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer,
            "ratio": self.ratio,
            "limit": self.limit,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    figures: tuple[Figure, ...]

    @property
    def met(self) -> bool:
        return all(figure.met for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "machine": machine(),
            "met": self.met,
            "figures": [figure.to_json() for figure in self.figures],
        }

    def to_text(self) -> str:
        lines = [f"{self.name} on {machine()}"]
        for figure in self.figures:
            line = f"  {figure.name:<44} {figure.value:>10.3f} {figure.unit}"
            if figure.ratio is not None:
                line += f"   peer {figure.peer:.3f}, ratio {figure.ratio:.2f}"
            if figure.limit is not None:
                sign = ">=" if figure.at_least else "<="
                line += f"   {'met' if figure.met else 'MISSED'} ({sign} {figure.limit:g})"
            lines.append(line)
        return "\n".join(lines)


def machine() -> str:
    """What was measured on, in words that name no host."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
