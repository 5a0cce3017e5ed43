"""Reads an input as a program: bytes that choose what happens, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Checked(Protocol):
    def check(self) -> None:
        """Raises `AssertionError` where something is not as it must be."""


S = TypeVar("S", bound=Checked)


class Program:
    """What is asked for beyond its end is zero or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is more."""
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """At most `count` bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def byte(self) -> int:
        return int.from_bytes(self.take(1), "big")

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def run(self, steps: Sequence[Callable[[S, Program], None]], scene: S, most: int) -> None:
        """Take at most so many of the `steps` with `scene`, which checks itself after each."""
        for _ in range(most):
            if not self:
                return
            self.choose(steps)(scene, self)
            scene.check()

    def choose(self, among: Sequence[T]) -> T:
        return among[self.byte() % len(among)]

    def data(self) -> bytes:
        """Bytes, with their number in two bytes before them."""
        return self.take(self.number())

    def filled(self, size: int) -> bytes:
        """`data` cut or filled with zeros to `size` bytes."""
        return self.data()[:size].ljust(size, b"\0")

    def rest(self) -> bytes:
        return self.take(len(self._data))


def data(value: bytes) -> bytes:
    """What `Program.data` reads as `value`."""
    return len(value).to_bytes(2, "big") + value
