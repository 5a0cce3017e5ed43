"""What the tests of `ps-ledger` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.planetserve.ledger_servers import Chain, Servers
    from tests.planetserve.ledger_views import Command, Run


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Makes a command line against servers of a chain, of `ledger_views.CHAIN` by default."""
    from tests.planetserve.ledger_views import CHAIN, command_line

    def make(chain: Chain = CHAIN, **lies: Any) -> tuple[Run, Servers]:
        return command_line(chain, tmp_path, monkeypatch, capsys, **lies)

    return make
