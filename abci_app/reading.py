"""Transactions that this node has read already.

A transaction passes CheckTx on every node, then perhaps two proposals and the block; most of its
cost is reading it and its signature, which happens once.
"""

from __future__ import annotations

import threading

from abci_app.core.transactions import read_transaction
from planetserve.transactions import Transaction

MAX_REMEMBERED = 20_000
MAX_REMEMBERED_BYTES = 32 << 20


class Transactions:
    """Reads transactions and remembers those that are worth it, oldest forgotten first. Any
    thread may call it: signatures are verified side by side."""

    def __init__(self, chain_id: str) -> None:
        self._chain_id = chain_id
        self._known: dict[bytes, Transaction] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, raw: bytes) -> Transaction:
        """Raises `Rejected` for bytes that are no transaction of this chain."""
        known = self._known.get(raw)
        return read_transaction(raw, self._chain_id) if known is None else known

    def remember(self, raw: bytes, transaction: Transaction) -> None:
        """Keep what `read` has returned for as long as there is room. What was refused is not
        worth it: a sender could fill the memory with it."""
        with self._lock:
            if raw not in self._known:
                self._known[raw] = transaction
                self._bytes += len(raw)
            while len(self._known) > MAX_REMEMBERED or self._bytes > MAX_REMEMBERED_BYTES:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._bytes -= len(oldest)
