"""What may wait in the mempool: CheckTx, and the transactions that it has read already.

A transaction passes CheckTx on every node, then perhaps two proposals and the block; most of its
cost is reading it and its signature, which happens once.
"""

from __future__ import annotations

import threading
from collections import Counter

from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Window, window_of
from abci_app.core.ordering import Rank, rank_of
from abci_app.core.parameters import Chain
from abci_app.core.state import Reader, View
from abci_app.core.transactions import execute, next_nonce, read_transaction
from planetserve.keys import node_id
from planetserve.statekeys import account_key, verifier_key
from planetserve.transactions import Transaction

MAX_REMEMBERED = 20_000
MAX_REMEMBERED_BYTES = 32 << 20
MAX_WAITING_PER_KEY = 128
MAX_WAITING_UNKNOWN = 256
MAX_WAITING_DUTIES = 1_000
FULLY_CHECKED_DUTIES = 32
"""Of a verifier's commitments and reveals. When more of them wait, blocks are what is short, and
executing each here as well would make them shorter still."""


class Transactions:
    """Reads transactions and remembers the authentic ones, oldest forgotten first. Any thread may
    call it: signatures are verified side by side."""

    def __init__(self, chain_id: str) -> None:
        self._chain_id = chain_id
        self._known: dict[bytes, Transaction] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, raw: bytes, chain_id: str | None = None) -> Transaction:
        """Raises `Rejected` for bytes that are no transaction of this chain."""
        known = self._known.get(raw)
        if known is not None:
            return known
        transaction = read_transaction(raw, self._chain_id if chain_id is None else chain_id)
        with self._lock:
            if raw not in self._known:
                self._known[raw] = transaction
                self._bytes += len(raw)
            while len(self._known) > MAX_REMEMBERED or self._bytes > MAX_REMEMBERED_BYTES:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._bytes -= len(oldest)
        return transaction


class Ranks:
    """How the keys that send transactions stand in one committed state."""

    def __init__(self, state: Reader, chain: Chain, height: int) -> None:
        self._state = state
        self._window: Window = window_of(chain.epoch, chain.parameters)
        self._height = height
        self._known: dict[bytes, tuple[bool, bool]] = {}

    def standing(self, key: bytes) -> tuple[bool, bool]:
        """Whether the key is a verifier's, and whether it has an account."""
        found = self._known.get(key)
        if found is None:
            identifier = node_id(key)
            found = (
                self._state.get(verifier_key(identifier)) is not None,
                self._state.get(account_key(identifier)) is not None,
            )
            if any(found):
                # Of the others anyone can make as many as they like.
                self._known[key] = found
        return found

    def rank(self, transaction: Transaction) -> Rank:
        verifier, known = self.standing(transaction.key)
        return rank_of(
            transaction.kind, self._window, self._height, is_verifier=verifier, is_known=known
        )


class Mempool:
    """The state that the next block would leave if it held all that waits, as far as CheckTx has
    seen it. Made anew for every committed state; CometBFT then checks again all that is left."""

    def __init__(self, state: Reader, chain: Chain, height: int) -> None:
        """`height` is that of the block which is checked for: the next."""
        self._view = View(state)
        self._chain = chain
        self._height = height
        self._ranks = Ranks(state, chain, height)
        self._waiting: Counter[bytes] = Counter()
        self._waiting_unknown = 0

    @property
    def phase(self) -> tuple[int, bool, bool]:
        """What decides which duties of the epoch are taken: the epoch and its part."""
        window = window_of(self._chain.epoch, self._chain.parameters)
        return window.epoch, self._height < window.commit_end, self._height < window.reveal_end

    def check(self, transaction: Transaction) -> None:
        """Let a transaction wait. Raises `Rejected`."""
        verifier, known = self._ranks.standing(transaction.key)
        if not verifier:
            self._check_room(transaction.key, known)
        elif self._waiting[transaction.key] >= FULLY_CHECKED_DUTIES and self._is_due(transaction):
            if self._waiting[transaction.key] >= MAX_WAITING_DUTIES:
                raise Rejected(Code.SENDER_LIMIT, f"{MAX_WAITING_DUTIES} may wait")
            self.check_order(transaction)
            return
        staged = View(self._view)
        execute(staged, self._chain, self._height, transaction)
        self._view.apply(staged.writes)
        self._count(transaction.key, verifier, known)

    def check_order(self, transaction: Transaction) -> None:
        """Whether a transaction may wait as far as the order of nonces says: enough for one that
        has waited already, as long as the epoch is in the same part. If it fails all the same, it
        is left out of proposals."""
        sender = node_id(transaction.key)
        expected = next_nonce(self._view, sender)
        if transaction.nonce != expected:
            raise Rejected(Code.BAD_NONCE, f"{expected} is next")
        self._view.save_ordered(account_key(sender), {"nonce": expected + 1})
        self._count(transaction.key, *self._ranks.standing(transaction.key))

    def _is_due(self, transaction: Transaction) -> bool:
        return self._ranks.rank(transaction) is Rank.DUE

    def _check_room(self, key: bytes, known: bool) -> None:
        if known:
            if self._waiting[key] >= MAX_WAITING_PER_KEY:
                raise Rejected(Code.SENDER_LIMIT, f"{MAX_WAITING_PER_KEY} may wait")
        elif self._waiting[key]:
            raise Rejected(Code.SENDER_LIMIT, "of a new key one may wait")
        elif self._waiting_unknown >= MAX_WAITING_UNKNOWN:
            raise Rejected(
                Code.SENDER_LIMIT, f"of new keys {MAX_WAITING_UNKNOWN} may wait; try later"
            )

    def _count(self, key: bytes, verifier: bool, known: bool) -> None:
        self._waiting[key] += 1
        if not verifier and not known:
            self._waiting_unknown += 1
