"""The state transition: a block applied to a state.

Pure: the same state and block give the same results and writes on every validator. There is no
clock, randomness, I/O or float below this function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from abci_app.core.codes import Code, Rejected
from abci_app.core.parameters import Chain, load_chain
from abci_app.core.settlement import Result, is_settled_by, settle
from abci_app.core.state import Reader, View
from abci_app.core.transactions import execute, read_transaction, sender_of
from planetserve.transactions import Transaction

ReadTransaction = Callable[[bytes, str], Transaction]


@dataclass(frozen=True, slots=True)
class Block:
    height: int
    transactions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """What explorers index: a type and attributes in a fixed order."""

    kind: str
    attributes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TransactionResult:
    code: Code
    log: str = ""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockResult:
    """Results in the order of the block's transactions, and the state's changes."""

    results: tuple[TransactionResult, ...]
    events: tuple[Event, ...]
    settled: tuple[Result, ...]
    writes: Mapping[bytes, bytes | None]


def transition(
    state: Reader, block: Block, read: ReadTransaction = read_transaction
) -> BlockResult:
    """Apply `block` to `state`. `read` decodes and authenticates a transaction; a caller that
    has done so before may pass a function that remembers."""
    view = View(state)
    chain = load_chain(view)
    results = tuple(apply(view, chain, block.height, raw, read) for raw in block.transactions)
    settled: Sequence[Result] = ()
    if is_settled_by(block.height, chain.parameters):
        settled = settle(view, block.height, chain.parameters)
    events = tuple(_settlement_event(result) for result in settled)
    return BlockResult(results, events, tuple(settled), view.writes)


def apply(
    view: View, chain: Chain, height: int, raw: bytes, read: ReadTransaction = read_transaction
) -> TransactionResult:
    """Apply one transaction to `view`: all of its effects, or none and a code that says why."""
    staged = View(view)
    try:
        transaction = read(raw, chain.chain_id)
        execute(staged, chain, height, transaction)
    except Rejected as rejection:
        return TransactionResult(rejection.code, rejection.log)
    view.apply(staged.writes)
    return TransactionResult(Code.OK, events=(_transaction_event(transaction),))


def _transaction_event(transaction: Transaction) -> Event:
    attributes = [("kind", transaction.kind), ("sender", sender_of(transaction).hex())]
    if "node" in transaction.data:
        attributes.append(("node", transaction.data["node"].hex()))
    if "epoch" in transaction.data:
        attributes.append(("epoch", str(transaction.data["epoch"])))
    return Event("ledger", tuple(attributes))


def _settlement_event(result: Result) -> Event:
    return Event(
        "settlement",
        (
            ("node", result.node.hex()),
            ("epoch", str(result.epoch)),
            ("reputation_ppm", str(result.after_ppm)),
            ("status", result.status),
        ),
    )
