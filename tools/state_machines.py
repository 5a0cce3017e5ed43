"""Writes docs/states.md from the transition tables in the docstrings of the cores.

.venv/bin/python -m tools.state_machines
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORES = (ROOT / "overlay" / "core", ROOT / "modelnode" / "core")
PAGE = ROOT / "docs" / "states.md"
HEAD = """\
# State machines of the overlay and of a model's group

Each is values in, values out: no socket, clock or randomness. The tables stand in the docstrings \
of the modules, which hold them beside the code that they are of, and are copied here by \
`python -m tools.state_machines`; the test `tests/test_docs.py` compares them. A diagram shows the \
changes of state alone; what "any" state does is left to its table.
"""
RULE = re.compile(r"─+(?: +─+)+")
STATE = re.compile(r"[A-Z][A-Z_]+")


@dataclass(frozen=True, slots=True)
class Machine:
    """The table of the docstring of `module`; its first column names what has the state."""

    module: str
    title: str
    lines: tuple[str, ...]
    starts: tuple[int, ...]

    def rows(self) -> Iterator[list[str]]:
        ends = (*self.starts[1:], None)
        for line in self.lines[2:]:
            yield [line[start:end].strip() for start, end in zip(self.starts, ends, strict=True)]

    def changes(self) -> dict[tuple[str, str], list[str]]:
        """The events by what they lead from and to, for states that have names."""
        found: dict[tuple[str, str], list[str]] = {}
        for before, event, after, *_ in self.rows():
            ends = [_node(before), _node(after)]
            if all(ends) and ends[0] != ends[1]:
                found.setdefault((ends[0], ends[1]), []).append(event)
        return found


def machines() -> list[Machine]:
    """Those of all modules that have a table with the columns "event" and "next"."""
    paths = [path for core in CORES for path in sorted(core.glob("*.py"))]
    return [found for path in paths if (found := machine(path)) is not None]


def machine(path: Path) -> Machine | None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = docstring.splitlines()
    for number, line in enumerate(lines):
        if number and RULE.fullmatch(line) and {"event", "next"} <= set(lines[number - 1].split()):
            end = next((at for at in range(number, len(lines)) if not lines[at]), len(lines))
            starts = tuple(match.start() for match in re.finditer("─+", line))
            return Machine(path.stem, lines[0], tuple(lines[number - 1 : end]), starts)
    return None


def page() -> str:
    parts = [HEAD]
    for item in machines():
        parts.append(f"\n## `{item.module}`\n{item.title}\n")
        changes = item.changes()
        if changes:
            parts.append("\n```mermaid\nstateDiagram-v2\n")
            for (before, after), events in changes.items():
                parts.append(f"    {before} --> {after}: {'; '.join(_words(events))}\n")
            parts.append("```\n")
        parts.append("\n```text\n" + "\n".join(item.lines) + "\n```\n")
    return "".join(parts)


def _node(state: str) -> str:
    """The name in a diagram: "" for what has none there."""
    if state in ("-", "(gone)", "(none)"):
        return "[*]"
    return state if STATE.fullmatch(state) else ""


def _words(events: list[str]) -> list[str]:
    """Without what ends a label in Mermaid."""
    return [re.sub(r"[:;#]", ",", event) for event in dict.fromkeys(events)]


if __name__ == "__main__":
    PAGE.write_text(page())
