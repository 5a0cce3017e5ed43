"""The ledger between consensus and the store: stages blocks, commits them, checks and answers.

Values in, values out; `abci_app.server` speaks the protocol. Nothing here is called from two
threads.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abci_app.core.apphash import advance, app_hash
from abci_app.core.codes import Code, Rejected
from abci_app.core.genesis import genesis
from abci_app.core.parameters import Chain, load_chain
from abci_app.core.queries import Answer, Committed, answer
from abci_app.core.state import Reader, View, Writes
from abci_app.core.transactions import read_transaction
from abci_app.core.transition import Block, BlockResult, TransactionResult, apply, transition
from abci_app.core.verifiers import Verifier, all_verifiers
from abci_app.store import Head, Store, TreeNodes
from planetserve.transactions import Transaction

MAX_REMEMBERED = 20_000
"""Digests of authentic transactions kept between CheckTx and the block."""
MAX_WAITING_PER_SENDER = 128
CACHED_ANSWERS = ("/routes", "/status")


@dataclass(frozen=True, slots=True)
class Staged:
    """A block that is executed and not committed."""

    head: Head
    writes: Writes
    nodes: TreeNodes


class Application:
    """One validator's ledger."""

    def __init__(
        self, store: Store, chain_id: str, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`committed_at_s` is the `monotonic_s` time of the last commit, for health alone."""
        self._monotonic_s = monotonic_s
        self._store = store
        self._chain_id = chain_id
        self._genesis: Writes = {}
        self._staged: Staged | None = None
        self._authentic: OrderedDict[bytes, None] = OrderedDict()
        self._answers: dict[str, Answer] = {}
        self.committed_at_s = monotonic_s()
        self._reset_check()

    @property
    def head(self) -> Head:
        return self._store.head

    def init_chain(self, chain_id: str, app_state: bytes) -> tuple[bytes, list[Verifier]]:
        """Stage the genesis state; the first commit writes it. Returns its app hash and the
        verifiers. Raises `GenesisError`."""
        if chain_id != self._chain_id:
            raise ValueError("consensus and ledger were started for different chains")
        self._genesis = genesis(chain_id, app_state)
        roots, _ = advance(self._store.latest.tree_node, self.head.roots, self._genesis)
        self._reset_check()
        return app_hash(roots), all_verifiers(self._state())

    def check(self, raw: bytes) -> TransactionResult:
        """Whether the mempool should hold a transaction, given those that it holds already."""
        if self._chain is None:
            return _rejection(Code.NOT_STARTED)
        height = self.head.height + 1
        try:
            sender = self._read(raw, self._chain_id).key
        except Rejected as rejected:
            return TransactionResult(rejected.code, rejected.log)
        if self._waiting[sender] >= MAX_WAITING_PER_SENDER:
            return _rejection(Code.SENDER_LIMIT, f"{MAX_WAITING_PER_SENDER} may wait")
        result = apply(self._check, self._chain, height, raw, self._read)
        if result.code is Code.OK:
            self._waiting[sender] += 1
        return result

    def select(self, height: int, raws: Sequence[bytes], max_bytes: int) -> list[bytes]:
        """The transactions of a proposal: in the given order, those that succeed and fit."""
        view = View(self._state())
        chain = load_chain(view)
        chosen, used = [], 0
        for raw in raws:
            # In a block a transaction has a tag of one byte and its length as a varint.
            size = len(raw) + 1 + max(1, (len(raw).bit_length() + 6) // 7)
            if used + size > max_bytes:
                continue
            if apply(view, chain, height, raw, self._read).code is Code.OK:
                chosen.append(raw)
                used += size
        return chosen

    def acceptable(self, height: int, raws: Sequence[bytes]) -> bool:
        """Whether a proposal holds only transactions that succeed, as `select` makes it."""
        view = View(self._state())
        chain = load_chain(view)
        return all(apply(view, chain, height, raw, self._read).code is Code.OK for raw in raws)

    def finalize(self, height: int, raws: Sequence[bytes]) -> tuple[BlockResult, bytes]:
        """Execute a decided block and stage it. Returns its results and the new app hash."""
        if height != self.head.height + 1:
            raise ValueError(f"block {height} does not follow height {self.head.height}")
        result = transition(self._state(), Block(height, tuple(raws)), self._read)
        writes = {**self._genesis, **result.writes}
        roots, nodes = advance(self._store.latest.tree_node, self.head.roots, writes)
        self._staged = Staged(Head(height, app_hash(roots), roots), writes, nodes)
        return result, self._staged.head.app_hash

    def commit(self) -> None:
        """Write the staged block to disk and let reads see it."""
        if self._staged is None:
            raise ValueError("there is no executed block to commit")
        self._store.commit(self._staged.head, self._staged.writes, self._staged.nodes)
        self._staged = None
        self._genesis = {}
        self._answers.clear()
        self.committed_at_s = self._monotonic_s()
        self._reset_check()

    def query(self, path: str) -> Answer:
        """Answer from the last committed state."""
        if path in self._answers:
            return self._answers[path]
        head = self.head
        found = answer(Committed(self._store.latest, head.height, head.app_hash), path)
        if path in CACHED_ANSWERS:
            self._answers[path] = found
        return found

    def _state(self) -> Reader:
        """The state that the next block builds on."""
        return View(self._store.latest, self._genesis) if self._genesis else self._store.latest

    def _reset_check(self) -> None:
        self._check = View(self._state())
        self._waiting: Counter[bytes] = Counter()
        started = bool(self._genesis) or self.head.height > 0
        self._chain: Chain | None = load_chain(self._check) if started else None

    def _read(self, raw: bytes, chain_id: str) -> Transaction:
        """`read_transaction`, remembering whose signature was good: a transaction passes
        CheckTx, perhaps two proposals and the block."""
        digest = hashlib.sha256(raw).digest()
        transaction = read_transaction(raw, chain_id, authentic=digest in self._authentic)
        self._authentic[digest] = None
        if len(self._authentic) > MAX_REMEMBERED:
            self._authentic.popitem(last=False)
        return transaction


def _rejection(code: Code, detail: str = "") -> TransactionResult:
    return TransactionResult(code, Rejected(code, detail).log)
