"""Where the rule and the ledger's record part, in words."""

from __future__ import annotations

from planetserve.ledger_cli.display import decimal, short
from planetserve.scoring.reputation import Reputation


class Differences:
    """Collects them as `lines`, each of which names the epoch, None for now."""

    def __init__(self, epoch: int | None) -> None:
        self._place = "now" if epoch is None else f"epoch {epoch}"
        self.lines: tuple[str, ...] = ()

    def add(self, line: str) -> None:
        self.lines = (*self.lines, f"{self._place}: {line}")

    def text(self, what: str, computed: str, recorded: str) -> None:
        if computed != recorded:
            self.add(f"{what} comes to {computed!r} by the rule, and the ledger has {recorded!r}")

    def value(self, what: str, computed: int, recorded: int) -> None:
        self.text(what, str(computed), str(recorded))

    def ppm(self, what: str, computed: int | None, recorded: int | None) -> None:
        words = ["none" if ppm is None else decimal(ppm) for ppm in (computed, recorded)]
        self.text(what, *words)

    def reputation(self, computed: Reputation, recorded: Reputation, when: str = "") -> None:
        """Of every field."""
        if computed == recorded:
            return
        self.ppm(f"R{when}", computed.ppm, recorded.ppm)
        self.ppm(f"CUSUM{when}", computed.cusum_ppm, recorded.cusum_ppm)
        windows = [
            " ".join(decimal(credit) for credit in reputation.window_ppm)
            for reputation in (computed, recorded)
        ]
        self.text(f"the window{when}", *windows)
        self.value(f"admitted{when}", computed.admitted, recorded.admitted)
        self.value(f"trusted{when}", computed.trusted, recorded.trusted)
        self.value(f"good epochs in a row{when}", computed.streak, recorded.streak)
        self.value(f"epochs under alarm{when}", computed.alarm, recorded.alarm)
        self.value(f"convictions{when}", computed.convictions, recorded.convictions)
        self.text(f"the newest result{when}", _link(computed.last), _link(recorded.last))


def _link(last: tuple[bytes, int] | None) -> str:
    return "none" if last is None else f"that of {short(last[0])} in epoch {last[1]}"
