"""The ledger beside CometBFT's own kvstore example, and what its parts cost.

The order is that of rising length. Figures of pure computation (settlement, the light client) are
processor time, which equals time on an idle machine; all else is time on the clock.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.figures import Report
from bench.ledger_blocks import block_figures
from bench.ledger_light import light_figures
from bench.ledger_settlement import settlement_figures
from bench.ledger_throughput import throughput_figures


def run() -> Report:
    figures = [*light_figures(), *settlement_figures()]
    with tempfile.TemporaryDirectory(prefix="ps-bench-") as folder:
        figures += block_figures(Path(folder))
    figures += throughput_figures()
    return Report("ledger", tuple(figures))
