"""Fuzz the target `guard_file`; see `tests.fuzz.driver`."""

from __future__ import annotations

from tests.fuzz.driver import fuzz

if __name__ == "__main__":
    fuzz("guard_file", "overlay_")
