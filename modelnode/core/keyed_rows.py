"""Rows of numbers found by a key of 64 bits, at a third of what Python's dictionaries take.

Columns are flat arrays and a row is an index into each of them; row 0 is nobody's. Keys are found
by open addressing with linear probing (Knuth, TAOCP 3, 6.4) under a multiplicative hash whose
secret factor keeps peers from choosing keys that collide (Dietzfelbinger et al. 1997). The index
is parted, so that growing it never takes longer than moving a 256th of it.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Any

_PARTS = 256
_LEAST_SLOTS = 4
_BITS_OF_PART = 8
_MASK = (1 << 64) - 1


class KeyedRows:
    """`secret` is a random number below 2^64; `columns` get a typecode each."""

    __slots__ = ("_factor", "_free", "_parts", "_shifts", "_used", "columns", "count", "keys")

    def __init__(self, secret: int, columns: str) -> None:
        self.keys = array("Q", [_MASK])
        self.columns: tuple[Any, ...] = tuple(array(code, [0]) for code in columns)
        self.count = 0
        digest = blake2b(secret.to_bytes(8, "big"), digest_size=8).digest()
        self._factor = int.from_bytes(digest, "big") | 1
        self._free = 0
        self._parts = [array("I", bytes(4 * _LEAST_SLOTS)) for _ in range(_PARTS)]
        self._shifts = [64 - _BITS_OF_PART - _LEAST_SLOTS.bit_length() + 1] * _PARTS
        self._used = [0] * _PARTS

    def find(self, key: int) -> int:
        """The row of `key`, 0 when there is none."""
        mixed = key * self._factor & _MASK
        part = mixed >> 56
        slots = self._parts[part]
        last = len(slots) - 1
        at = mixed >> self._shifts[part] & last
        keys = self.keys
        while row := slots[at]:
            if keys[row] == key:
                return row
            at = (at + 1) & last
        return 0

    def add(self, key: int) -> int:
        """A new row for `key`, which must have none; its columns hold 0."""
        row = self._free
        if row:
            self._free = self.keys[row]
            self.keys[row] = key
            for column in self.columns:
                column[row] = 0
        else:
            row = len(self.keys)
            self.keys.append(key)
            for column in self.columns:
                column.append(0)
        self.count += 1
        self._enter(key, row)
        return row

    def remove(self, row: int) -> None:
        """Give up a row that has a key."""
        self._leave(self.keys[row])
        self.keys[row] = self._free
        self._free = row
        self.count -= 1

    def rekey(self, row: int, key: int) -> None:
        """Give a row another key, which must have no row."""
        self._leave(self.keys[row])
        self.keys[row] = key
        self._enter(key, row)

    def _enter(self, key: int, row: int) -> None:
        part = (key * self._factor & _MASK) >> 56
        self._used[part] += 1
        if 3 * self._used[part] > 2 * len(self._parts[part]):
            self._grow(part)
        self._put(key, row)

    def _put(self, key: int, row: int) -> None:
        mixed = key * self._factor & _MASK
        part = mixed >> 56
        slots = self._parts[part]
        last = len(slots) - 1
        at = mixed >> self._shifts[part] & last
        while slots[at]:
            at = (at + 1) & last
        slots[at] = row

    def _grow(self, part: int) -> None:
        old = self._parts[part]
        self._parts[part] = array("I", bytes(8 * len(old)))
        self._shifts[part] -= 1
        for row in old:
            if row:
                self._put(self.keys[row], row)

    def _leave(self, key: int) -> None:
        """Empty the slot of `key` and move up those behind it that would not be found then."""
        mixed = key * self._factor & _MASK
        part = mixed >> 56
        slots, shift = self._parts[part], self._shifts[part]
        last = len(slots) - 1
        at = mixed >> shift & last
        while self.keys[slots[at]] != key:
            at = (at + 1) & last
        gap = at
        while True:
            at = (at + 1) & last
            row = slots[at]
            if not row:
                break
            home = (self.keys[row] * self._factor & _MASK) >> shift & last
            if (at - home) & last >= (at - gap) & last:
                slots[gap] = row
                gap = at
        slots[gap] = 0
        self._used[part] -= 1
