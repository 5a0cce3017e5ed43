"""What may wait for a block, checked against the last state and all that waits already.

Waiting transactions fall into classes, each with room of its own, for one key and together, so
that none keeps another out: what verifiers owe the epoch, what else they send, what the keys send
that somebody endorses, and what comes from all other keys. The verifiers share theirs evenly.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

from abci_app.core.chain import Chain
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context, Window, window_of
from abci_app.core.credentials import has_live
from abci_app.core.epochs import check_duty
from abci_app.core.ordering import Rank, Standing, due_kind, rank_of
from abci_app.core.state import Reader, View
from abci_app.core.transactions import execute, next_nonce
from abci_app.proposals import Candidate
from planetserve.keys import node_id
from planetserve.statekeys import account_key, verifier_key
from planetserve.transactions import MAX_TRANSACTION_BYTES, Transaction

FULLY_CHECKED_DUTIES = 32
"""Of a verifier's commitments and reveals. When more of them wait, blocks are what is short, and
executing each here as well would make them shorter still."""

MAX_EARLY = 1_000
"""How far beyond its key's next a nonce may lie where it may be early."""


class Class(IntEnum):
    DUE = 0
    VERIFIER = 1
    KNOWN = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Room:
    """How many transactions and bytes of a class may wait, of one key and together."""

    each: int
    each_bytes: int
    together: int
    together_bytes: int


ROOMS = {
    Class.DUE: Room(1_000, 512 << 10, 10_000, 6 << 20),
    Class.VERIFIER: Room(64, 256 << 10, 1_000, 4 << 20),
    Class.KNOWN: Room(16, 64 << 10, 1_500, 4 << 20),
    Class.UNKNOWN: Room(1, MAX_TRANSACTION_BYTES, 256, 1 << 20),
}
MAX_WAITING = sum(room.together for room in ROOMS.values())
MAX_WAITING_BYTES = sum(room.together_bytes for room in ROOMS.values())
"""CometBFT's own mempool has room for these and more (`abci_app.config_file`)."""


class Ranks:
    """How the keys that send transactions stand in one committed state."""

    def __init__(self, state: Reader, chain: Chain, height: int) -> None:
        self._state = state
        self._window: Window = window_of(chain.epoch, chain.parameters)
        self._height = height
        self._known: dict[bytes, Standing] = {}

    def standing(self, key: bytes) -> Standing:
        found = self._known.get(key)
        if found is None:
            identifier = node_id(key)
            if self._state.get(verifier_key(identifier)) is not None:
                found = Standing.VERIFIER
            elif has_live(self._state, identifier, self._height):
                found = Standing.KNOWN
            else:
                # Of these anyone can make as many as they like.
                return Standing.UNKNOWN
            self._known[key] = found
        return found

    def rank(self, transaction: Transaction) -> Rank:
        standing = self.standing(transaction.key)
        return rank_of(transaction.kind, self._window, self._height, standing)


class Mempool:
    """The state that the next block would leave if it held all that waits, as far as CheckTx has
    seen it. Made anew for every committed state; CometBFT then checks again all that is left."""

    def __init__(self, state: Reader, chain: Chain, height: int) -> None:
        """`height` is that of the block which is checked for: the next."""
        self._view = View(state)
        self._chain = chain
        self.height = height
        self.ranks = Ranks(state, chain, height)
        self._due = due_kind(window_of(chain.epoch, chain.parameters), height)
        self._verifiers = max(1, sum(1 for _ in state.scan(verifier_key(b""))))
        self._waiting: dict[bytes, Candidate] = {}
        self._early: dict[bytes, set[int]] = {}
        self._counts: Counter[tuple[Class, bytes]] = Counter()
        self._bytes: Counter[tuple[Class, bytes]] = Counter()

    @property
    def phase(self) -> tuple[int, str | None]:
        """What decides which duties of the epoch are taken: the epoch and its part."""
        return self._chain.epoch.number, self._due

    @property
    def waiting(self) -> list[Candidate]:
        """In the order of arrival."""
        return list(self._waiting.values())

    def check(self, raw: bytes, transaction: Transaction) -> None:
        """Let a transaction wait. Raises `Rejected`."""
        kind = self._class_of(transaction)
        self._check_room(kind, transaction.key, len(raw))
        if kind is Class.DUE and self._counts[kind, transaction.key] >= FULLY_CHECKED_DUTIES:
            context = Context(self._chain, self.height, transaction.key)
            check_duty(context, transaction.kind, transaction.data)
            self._check_nonce(transaction, early=True)
        else:
            staged = View(self._view)
            execute(staged, self._chain, self.height, transaction)
            self._view.apply(staged.writes)
            if self._early:
                self._pass(node_id(transaction.key), transaction.nonce + 1)
        self._add(kind, raw, transaction)

    def check_again(self, raw: bytes, transaction: Transaction) -> None:
        """Whether a transaction may go on waiting as far as the order of nonces says: enough as
        long as the epoch is in the same part. If it fails all the same, it is left out of
        proposals."""
        kind = self._class_of(transaction)
        self._check_nonce(transaction, early=kind is Class.DUE)
        self._add(kind, raw, transaction)

    def _check_nonce(self, transaction: Transaction, *, early: bool) -> None:
        """Whether a transaction's nonce is its key's next. When many of a key are on their way,
        CometBFT's connections to several peers let some overtake others; to refuse each that
        comes `early` would lose all that follow it at this node. Proposals put them in order."""
        sender = node_id(transaction.key)
        expected = next_nonce(self._view, sender)
        gap = transaction.nonce - expected
        if early and 0 < gap < MAX_EARLY:
            ahead = self._early.setdefault(sender, set())
            if transaction.nonce not in ahead:
                ahead.add(transaction.nonce)
                return
        if gap:
            raise Rejected(Code.BAD_NONCE, f"{expected} is next")
        self._pass(sender, expected + 1)

    def _pass(self, sender: bytes, following: int) -> None:
        """Let the nonce `following` be the next of a key, or the first after it that has not come
        early."""
        ahead = self._early.get(sender, ())
        while following in ahead:
            following += 1
        self._view.save_ordered(account_key(sender), {"nonce": following})

    def _class_of(self, transaction: Transaction) -> Class:
        standing = self.ranks.standing(transaction.key)
        if standing is Standing.VERIFIER:
            return Class.DUE if transaction.kind == self._due else Class.VERIFIER
        return Class.KNOWN if standing is Standing.KNOWN else Class.UNKNOWN

    def _check_room(self, kind: Class, key: bytes, size: int) -> None:
        room = ROOMS[kind]
        each, each_bytes = room.each, room.each_bytes
        if kind in (Class.DUE, Class.VERIFIER):
            each = min(each, room.together // self._verifiers)
            each_bytes = min(each_bytes, room.together_bytes // self._verifiers)
        elif self._counts[kind, b""] >= room.together:
            raise Rejected(Code.SENDER_LIMIT, f"of such keys {room.together} may wait; try later")
        elif self._bytes[kind, b""] + size > room.together_bytes:
            raise Rejected(
                Code.SENDER_LIMIT, f"of such keys {room.together_bytes} bytes may wait; try later"
            )
        if self._counts[kind, key] >= each:
            raise Rejected(Code.SENDER_LIMIT, f"{each} may wait")
        if self._bytes[kind, key] + size > each_bytes:
            raise Rejected(Code.SENDER_LIMIT, f"{each_bytes} bytes may wait")

    def _add(self, kind: Class, raw: bytes, transaction: Transaction) -> None:
        self._waiting[raw] = Candidate(raw, transaction)
        for key in (transaction.key, b""):
            self._counts[kind, key] += 1
            self._bytes[kind, key] += len(raw)
