"""Writes docs/result-codes.md from the table of result codes in abci_app/core/codes.py.

.venv/bin/python -m tools.result_codes
"""

from __future__ import annotations

from pathlib import Path

from abci_app.core.codes import MEANINGS, REMEDIES, Code

PAGE = Path(__file__).parents[1] / "docs" / "result-codes.md"
HEAD = """\
# Result codes

What the ledger answers to a transaction or query. 0 is success; every other code leaves the state \
as it was and uses up no nonce. The `log` beside a code says more, for people; programs go by the \
number, which never changes its meaning. `codespace` is `planetserve`; CometBFT's own errors come \
under another.

`tools/result_codes.py` writes this page from `abci_app/core/codes.py`.
"""
SECTIONS = (
    (0, 9, "Any transaction"),
    (10, 19, "Nodes and models"),
    (20, 29, "Credentials"),
    (30, 39, "Scores"),
    (40, 49, "Proposals, evidence and models"),
    (50, 69, "The mempool of one node"),
    (70, 79, "Queries"),
)


def page() -> str:
    parts = [HEAD]
    for low, high, title in SECTIONS:
        codes = [code for code in Code if low <= code <= high]
        parts.append(f"\n## {title}\n\n| code | name | meaning | what to do |\n|---|---|---|---|\n")
        parts += [
            f"| {int(code)} | `{code.name}` | {MEANINGS[code]} | {REMEDIES[code]} |\n"
            for code in codes
        ]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
