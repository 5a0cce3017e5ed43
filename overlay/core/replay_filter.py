"""Which set-ups a relay has taken: Bloom filters (Bloom 1970) of fixed size, one a period.

A set-up names its period, and a relay takes its own period and the ones beside it; so three
filters are all that it need remember. A filter never forgets what it took, which is what guards
the keys: a set-up taken twice would seal two cells under one key and nonce. It sometimes refuses
what is new: with 2^22 bits and ten indices 6 in a million when 150,000 set-ups were taken in the
period, 6 in a hundred at 600,000. The client then tries again with fresh keys.

Indices come from a keyed hash, so that nobody without the key can choose set-ups that collide.
They are of the first 16 bytes of the ephemeral key, the part that a relay writes down.
"""

from __future__ import annotations

import hashlib
import struct

FILTER_BITS = 1 << 22
ENTRY_BYTES = 16
SECRET_BYTES = 16
_INDICES = struct.Struct(">10I")


class ReplayFilter:
    """`secret` is 16 random bytes; `period` the present one (`overlay.core.setup.period_of`)."""

    def __init__(self, secret: bytes, period: int, bits: int = FILTER_BITS) -> None:
        if len(secret) != SECRET_BYTES or bits < 8 or bits & (bits - 1):
            raise ValueError("a filter takes 16 bytes of secret and a power of two of bits")
        self._secret = secret
        self._bits = bits
        self._period = period
        self._filters = {near: bytearray(bits // 8) for near in self._window()}
        self._counts = dict.fromkeys(self._filters, 0)

    @property
    def taken(self) -> int:
        """Set-ups taken in the three periods."""
        return sum(self._counts.values())

    def covers(self, period: int) -> bool:
        """Whether set-ups of `period` can be told from earlier ones."""
        return period in self._filters

    def advance(self, period: int) -> None:
        """The present period is `period` now.

        A clock that was set back changes nothing: periods that were given up are not taken up
        again, since what was taken in them is forgotten.
        """
        if period <= self._period:
            return
        self._period = period
        self._filters = {
            near: self._filters.get(near) or bytearray(self._bits // 8) for near in self._window()
        }
        self._counts = {near: self._counts.get(near, 0) for near in self._filters}

    def take(self, period: int, ephemeral: bytes) -> bool:
        """Whether the set-up with this ephemeral key is new; it is not from now on.

        `period` must be covered; `ephemeral` is the key or its first 16 bytes.
        """
        bits = self._filters[period]
        is_new = False
        for byte, mask in self._places(ephemeral):
            if not bits[byte] & mask:
                bits[byte] |= mask
                is_new = True
        self._counts[period] += is_new
        return is_new

    def seen(self, period: int, ephemeral: bytes) -> bool:
        """Whether `take` would refuse, without taking."""
        bits = self._filters[period]
        return all(bits[byte] & mask for byte, mask in self._places(ephemeral))

    def _window(self) -> range:
        return range(self._period - 1, self._period + 2)

    def _places(self, ephemeral: bytes) -> list[tuple[int, int]]:
        digest = hashlib.blake2b(
            ephemeral[:ENTRY_BYTES], digest_size=_INDICES.size, key=self._secret
        ).digest()
        indices = (number & (self._bits - 1) for number in _INDICES.unpack(digest))
        return [(index >> 3, 1 << (index & 7)) for index in indices]
