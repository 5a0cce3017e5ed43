"""The ledger between consensus and the store: proposes, executes and commits blocks; checks
transactions; answers.

Consensus, the mempool and state sync share one lock, since they touch what is staged. Queries
read committed states, which never change, and wait for nobody. A block is executed once: what a
proposal came to is kept, and used when that very block is decided.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from abci_app.core.apphash import advance, app_hash
from abci_app.core.chain import load_chain
from abci_app.core.codes import Code, Rejected
from abci_app.core.genesis import genesis
from abci_app.core.ordering import Waiting, is_ordered, order
from abci_app.core.queries import Answer, Stores, answer, refusal
from abci_app.core.state import Reader, View, Writes, unpack
from abci_app.core.transactions import next_nonce
from abci_app.core.transition import (
    Block,
    BlockResult,
    ReadTransaction,
    TransactionResult,
    transition,
)
from abci_app.core.upgrades import (
    UPGRADES,
    Upgrade,
    UpgradeNeeded,
    require_due,
    require_known,
)
from abci_app.core.verifiers import Verifier, all_verifiers
from abci_app.crash import crash_point
from abci_app.mempool import Mempool, Ranks
from abci_app.proposals import Candidate, fitting, unbroken
from abci_app.reading import Transactions
from abci_app.store import Head, Snapshot, Store, TreeNodes
from planetserve.keys import node_id
from planetserve.statekeys import CHAIN_KEY
from planetserve.transactions import Transaction

KEPT_EXECUTIONS = 2
MAX_FILLINGS = 4
"""How often a proposal is executed while others take the place of what failed."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What a block came to that may be decided."""

    block: Block
    result: BlockResult


@dataclass(frozen=True, slots=True)
class Staged:
    """A block that is decided and not committed."""

    head: Head
    writes: Writes
    nodes: TreeNodes
    result: BlockResult
    new_version: int | None


class Application:
    """One validator's ledger."""

    def __init__(
        self,
        store: Store,
        chain_id: str,
        monotonic_s: Callable[[], float] = time.monotonic,
        upgrades: Mapping[int, Upgrade] = UPGRADES,
    ) -> None:
        """`committed_at_s` is the `monotonic_s` time of the last commit, for health alone. Raises
        `UpgradeNeeded` when the stored state, or the block after it, follows rules that this
        program does not have."""
        self._monotonic_s = monotonic_s
        self._upgrades = upgrades
        self._store = store
        self._chain_id = chain_id
        self._initial_height = 1
        self._genesis: Writes = {}
        self._staged: Staged | None = None
        self._executions: list[Execution] = []
        self._transactions = Transactions(chain_id)
        self._mempool: Mempool | None = None
        self._checked_phase: tuple[int, str | None] | None = None
        self._left_out: set[bytes] = set()
        self._suspect: set[bytes] = set()
        self._stores = Stores()
        self.lock = threading.Lock()
        self.committed_at_s = monotonic_s()
        self._halted: UpgradeNeeded | None = None
        self._begin()
        if self._halted is not None:
            raise self._halted

    @property
    def halted(self) -> UpgradeNeeded | None:
        """Why this ledger can execute no more blocks: the next begins rules that this program
        does not have. It neither proposes nor accepts any; the last one may still be passed on to
        validators that do not have it yet."""
        return self._halted

    @property
    def head(self) -> Head:
        return self._store.head

    @property
    def version(self) -> int:
        """Of the rules that the next block follows; 0 before there is a state."""
        return self._version

    @property
    def has_state(self) -> bool:
        """Whether a genesis or a block gave this ledger a state."""
        return bool(self._genesis) or self.head.height > 0

    def init_chain(
        self, chain_id: str, app_state: bytes, initial_height: int = 1
    ) -> tuple[bytes, list[Verifier]]:
        """Stage the genesis state; the first commit writes it. Returns its app hash and the
        verifiers. Raises `GenesisError`."""
        with self.lock:
            if chain_id != self._chain_id:
                raise ValueError("consensus and ledger were started for different chains")
            if self.head.height:
                raise ValueError("the chain has begun already")
            self._initial_height = max(1, initial_height)
            self._genesis = genesis(chain_id, app_state, self._initial_height)
            roots, _ = advance(self._store.latest.tree_node, self.head.roots, self._genesis)
            self._begin()
            return app_hash(roots), all_verifiers(self._state())

    def check(self, raw: bytes, again: bool = False) -> TransactionResult:
        """Whether the mempool should hold a transaction, given those that it holds already;
        `again` for one that it has held while a block passed."""
        try:
            transaction = self._transactions.read(raw)
            with self.lock:
                if self._mempool is None:
                    raise Rejected(Code.NOT_STARTED)
                if again and self._same_phase and raw not in self._suspect:
                    self._mempool.check_again(raw, transaction)
                else:
                    self._mempool.check(raw, transaction)
            self._transactions.remember(raw, transaction)
        except Rejected as rejected:
            return TransactionResult(rejected.code, rejected.log)
        return TransactionResult(Code.OK)

    def select(
        self,
        height: int,
        raws: Sequence[bytes],
        max_bytes: int,
        misbehaving: Sequence[bytes] = (),
    ) -> list[bytes]:
        """The transactions of a proposal: of `raws` and all others that wait here those that
        succeed, as many as fit, in the order of `abci_app.core.ordering`. The place of what fails
        goes to others. `misbehaving` are the addresses that the block names."""
        with self.lock:
            if self._halted is not None:
                return []
            ordered = self._candidates(height, raws)
            failed: dict[bytes, int] = {}
            chosen = fitting(ordered, failed, max_bytes)
            for left in reversed(range(MAX_FILLINGS)):
                result = self._transition(_block(height, chosen, misbehaving), chosen)
                good = []
                for item, outcome in zip(chosen, result.results, strict=True):
                    if outcome.code is Code.OK:
                        good.append(item)
                    else:
                        failed[item.key] = min(failed.get(item.key, item.nonce), item.nonce)
                        # What stands behind a gap may only wait for what fills it.
                        if outcome.code is not Code.BAD_NONCE:
                            self._left_out.add(item.raw)
                refilled = fitting(ordered, failed, max_bytes) if left else good
                # What failed had no effects: without it the block comes to the same.
                if len(refilled) == len(good):
                    break
                chosen = refilled
            results = tuple(item for item in result.results if item.code is Code.OK)
            block = _block(height, good, misbehaving)
            self._keep(Execution(block, replace(result, results=results)))
            return list(block.transactions)

    def acceptable(
        self, height: int, raws: Sequence[bytes], misbehaving: Sequence[bytes] = ()
    ) -> bool:
        """Whether a proposal is such as `select` makes: all succeed, in order."""
        with self.lock:
            if self._halted is not None:
                return False
            block = Block(height, tuple(raws), tuple(misbehaving))
            if self._executed(block) is not None:
                return True
            try:
                items = [Candidate(raw, self._transactions.read(raw)) for raw in raws]
            except Rejected:
                return False
            if not is_ordered(self._waiting(height, items)):
                return False
            result = self._transition(block, items)
            if any(item.code is not Code.OK for item in result.results):
                return False
            for item in items:
                self._transactions.remember(item.raw, item.transaction)
            self._keep(Execution(block, result))
            return True

    def finalize(
        self, height: int, raws: Sequence[bytes], misbehaving: Sequence[bytes] = ()
    ) -> Staged:
        """Execute a decided block and stage it. Raises `UpgradeNeeded` before a block that needs
        rules which this program does not have."""
        with self.lock:
            if height != self._next_height:
                raise ValueError(f"block {height} does not follow height {self.head.height}")
            crash_point("before-finalize")
            block = Block(height, tuple(raws), tuple(misbehaving))
            executed = self._executed(block)
            result = self._execute(block) if executed is None else executed.result
            writes = {**self._genesis, **result.writes} if self._genesis else result.writes
            # The genesis state is not stored yet, so nothing of it can be dropped.
            cleared = () if self._genesis else result.cleared
            head = self.head
            roots, nodes = advance(self._store.latest.tree_node, head.roots, writes, cleared)
            generations = {**head.generations, **{store: height for store in cleared}}
            chain = result.writes.get(CHAIN_KEY)
            version = self._version if chain is None else int(unpack(chain)["version"])
            self._staged = Staged(
                Head(height, app_hash(roots), roots, generations),
                writes,
                nodes,
                result,
                version if version != self._version else None,
            )
            crash_point("after-finalize")
            return self._staged

    def commit(self) -> Snapshot:
        """Write the staged block to disk and let reads see it. Returns the new state."""
        with self.lock:
            staged = self._staged
            if staged is None:
                raise ValueError("there is no executed block to commit")
            self._store.commit(staged.head, staged.writes, staged.nodes)
            self._genesis = {}
            self.committed_at_s = self._monotonic_s()
            self._begin()
            crash_point("before-commit-answer")
            return self._store.latest

    def query(self, path: str, data: bytes = b"", height: int = 0, proven: bool = False) -> Answer:
        """Answer from a committed state: the newest that a header commits to already, or that of
        `height` if it is this one or the last. Never waits for a block."""
        latest, previous = self._store.states
        if latest.height == 0:
            return refusal(Rejected(Code.NOT_STARTED))
        state: Snapshot | None = latest if previous is None else previous
        if height and state is not None and height != state.height:
            state = latest if height == latest.height else None
        if state is None:
            shown = latest if previous is None else previous
            return refusal(
                Rejected(
                    Code.BAD_ARGUMENT, f"heights {shown.height} to {latest.height} can be read"
                )
            )
        return answer(state, path, data, self._stores, self._store.roots_at, proven=proven)

    def restored(self) -> None:
        """Go on from the state that state sync has put in the store, or from none when it has
        emptied it; the caller holds `lock`."""
        self._begin()

    @property
    def _next_height(self) -> int:
        return self.head.height + 1 if self.head.height else self._initial_height

    @property
    def _same_phase(self) -> bool:
        return self._mempool is not None and self._mempool.phase == self._checked_phase

    def _state(self) -> Reader:
        """The state that the next block builds on."""
        return View(self._store.latest, self._genesis) if self._genesis else self._store.latest

    def _begin(self) -> None:
        """Turn to the next height."""
        self._staged = None
        self._executions.clear()
        self._suspect, self._left_out = self._left_out, set()
        self._checked_phase = None if self._mempool is None else self._mempool.phase
        self._version = 0
        if not self.has_state:
            self._mempool = None
            return
        state = self._state()
        chain = load_chain(state)
        require_known(chain.version, self._upgrades)
        self._version = chain.version
        try:
            require_due(state, self._next_height, self._upgrades)
        except UpgradeNeeded as error:
            self._halted = error
        self._mempool = Mempool(state, chain, self._next_height)

    def _transition(self, block: Block, items: Sequence[Candidate]) -> BlockResult:
        """Execute a block of transactions that have been read."""
        read = {item.raw: item.transaction for item in items}
        return self._execute(block, lambda raw, chain_id: read[raw])

    def _execute(self, block: Block, read: ReadTransaction | None = None) -> BlockResult:
        return transition(self._state(), block, read or self._read, self._upgrades)

    def _read(self, raw: bytes, chain_id: str) -> Transaction:
        return self._transactions.read(raw)

    def _candidates(self, height: int, raws: Sequence[bytes]) -> list[Candidate]:
        """All that may go into a proposal, in order."""
        waiting = [] if self._mempool is None else self._mempool.waiting
        known = {candidate.raw for candidate in waiting}
        for raw in raws:
            if raw not in known:
                with suppress(Rejected):
                    waiting.append(Candidate(raw, self._transactions.read(raw)))
        state = self._state()
        candidates = unbroken(waiting, lambda key: next_nonce(state, node_id(key)))
        return [candidates[place] for place in order(self._waiting(height, candidates))]

    def _waiting(self, height: int, items: Sequence[Candidate]) -> list[Waiting]:
        state = self._state()
        mempool = self._mempool
        ranks = mempool.ranks if mempool is not None and mempool.height == height else None
        if ranks is None:
            ranks = Ranks(state, load_chain(state), height)
        return [Waiting(item.key, item.nonce, ranks.rank(item.transaction)) for item in items]

    def _keep(self, execution: Execution) -> None:
        self._executions.append(execution)
        del self._executions[:-KEPT_EXECUTIONS]

    def _executed(self, block: Block) -> Execution | None:
        return next((item for item in self._executions if item.block == block), None)


def _block(height: int, items: Sequence[Candidate], misbehaving: Sequence[bytes]) -> Block:
    return Block(height, tuple(item.raw for item in items), tuple(misbehaving))
