"""docs/result-codes.md says what the table of codes says."""

from __future__ import annotations

import runpy
from pathlib import Path

from abci_app.core.codes import MEANINGS, REMEDIES, Code
from planetserve.ledger_cli import codes as printed

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "tools" / "result_codes.py"))


def test_every_code_has_a_meaning_and_a_remedy() -> None:
    assert set(MEANINGS) == set(REMEDIES) == set(Code)
    for code in Code:
        assert MEANINGS[code]
        assert REMEDIES[code].endswith(".")
        assert f"| {int(code)} | `{code.name}` | " in SCRIPT["page"]()


def test_the_page_is_current() -> None:
    assert SCRIPT["PAGE"].read_text() == SCRIPT["page"](), "run tools/result_codes.py"


def test_the_command_line_says_the_same() -> None:
    transactions = {int(code): MEANINGS[code] for code in Code if code < 70}
    assert transactions == printed.MEANINGS
