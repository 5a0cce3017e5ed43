"""The state transition: a block applied to a state.

Pure: the same state and block give the same results and writes on every validator. There is no
clock, randomness, I/O or float below this function. In the order of a block:

    1. an upgrade of the rules that is due at this height
    2. what ends at this height: credentials, and the patience with nodes that nobody endorses
    3. the transactions
    4. the count of votes, and validators that misbehaved
    5. the public records of the nodes that these have changed
    6. in an epoch's last block: settlement, rotations, the next epoch with its parameters
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from abci_app.core import events
from abci_app.core.chain import (
    Chain,
    Epoch,
    load_chain,
    parameters_of_next_epoch,
    save_chain,
)
from abci_app.core.codes import Code, Rejected
from abci_app.core.events import Event
from abci_app.core.governance import moves_power, tally
from abci_app.core.misbehavior import punish
from abci_app.core.rotation import apply_rotations
from abci_app.core.routes import pass_expiries, refresh_route, refresh_touched
from abci_app.core.settlement import CLEARED, Settlement, is_settled_by, settle
from abci_app.core.state import Reader, View, unpack
from abci_app.core.transactions import execute, read_transaction
from abci_app.core.upgrades import UPGRADES, Upgrade, run_upgrade
from abci_app.core.verifiers import all_verifiers, powers_of, verifier_from
from planetserve.assignment import sample_ppm
from planetserve.transactions import Transaction

ReadTransaction = Callable[[bytes, str], Transaction]


@dataclass(frozen=True, slots=True)
class Block:
    """`misbehaving` are the addresses of validators that CometBFT has caught signing two things
    at once: the first 20 bytes of SHA-256 of their consensus keys."""

    height: int
    transactions: tuple[bytes, ...]
    misbehaving: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TransactionResult:
    code: Code
    log: str = ""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockResult:
    """Results in the order of the block's transactions, and the state's changes.

    `cleared` names stores that the block has emptied. `validator_updates` are consensus keys with
    their new power, 0 for one that leaves; CometBFT follows them two blocks later.
    """

    results: tuple[TransactionResult, ...]
    events: tuple[Event, ...]
    settlement: Settlement | None
    writes: Mapping[bytes, bytes | None]
    cleared: tuple[str, ...] = ()
    validator_updates: tuple[tuple[bytes, int], ...] = ()


def transition(
    state: Reader,
    block: Block,
    read: ReadTransaction = read_transaction,
    upgrades: Mapping[int, Upgrade] = UPGRADES,
) -> BlockResult:
    """Apply `block` to `state`. `read` decodes and authenticates a transaction; a caller that
    has done so before may pass a function that remembers. Raises `UpgradeNeeded` when rules that
    `upgrades` lacks take over at this height."""
    view = View(state)
    height = block.height
    happened: list[Event] = []
    upgraded = run_upgrade(view, height, upgrades)
    if upgraded is not None:
        happened.append(events.upgrade(upgraded))
    chain = load_chain(view)
    forgotten = pass_expiries(view, height, chain.parameters)
    results = tuple(apply(view, chain, height, raw, read) for raw in block.transactions)
    outcomes = tally(view, height, chain.parameters)
    forgotten += sorted(_crowded_out(view).difference(forgotten))
    happened += [events.forgotten(node) for node in forgotten]
    happened += [events.outcome(item) for item in outcomes]
    caught = punish(view, chain.parameters, block.misbehaving, height)
    happened += [events.misbehavior(verifier) for verifier in caught]
    changed = refresh_touched(view, list(view.writes), height)
    happened += [events.status(node, status) for node, status in changed]
    settlement = None
    if is_settled_by(height, chain):
        moved = bool(caught) or any(moves_power(item) for item in outcomes)
        settlement = settle(view, height, chain, may_move_power=not moved)
        happened += events.settlement(settlement)
        for old, new in apply_rotations(view, chain):
            refresh_route(view, old, height)
            refresh_route(view, new, height)
            happened.append(events.rotation(old, new))
        voted = _begin_epoch(view, height + 1, chain, settlement)
        if voted:
            happened.append(events.parameters(voted))
    updates = validator_updates(state, view)
    happened += [events.power(key, power) for key, power in updates]
    return BlockResult(
        results,
        tuple(happened),
        settlement,
        view.writes,
        CLEARED if settlement is not None else (),
        updates,
    )


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
    return TransactionResult(Code.OK, events=(events.transaction(transaction),))


def _crowded_out(view: View) -> set[bytes]:
    """Nodes that are gone with the block, also for others that announced their keys: before its
    rotations, nothing but forgetting deletes a node."""
    gone = (key for key, value in view.writes.items() if value is None)
    return {key.removeprefix(b"nodes/") for key in gone if key.startswith(b"nodes/")}


def _begin_epoch(view: View, start: int, chain: Chain, settlement: Settlement) -> dict[str, int]:
    """Start the epoch at height `start`; returns the parameters that change with it."""
    parameters = parameters_of_next_epoch(view, chain.parameters)
    verifiers = all_verifiers(view)
    epoch = Epoch(
        number=chain.epoch.number + 1,
        start=start,
        seed=settlement.next_seed,
        sample_ppm=sample_ppm(parameters.probers_per_node, len(verifiers)),
        powers=powers_of(verifiers),
    )
    save_chain(view, replace(chain, parameters=parameters, epoch=epoch))
    former = chain.parameters.to_wire()
    return {name: v for name, v in parameters.to_wire().items() if former[name] != v}


def validator_updates(before: Reader, view: View) -> tuple[tuple[bytes, int], ...]:
    """How the verifiers' powers differ from the state before, in ascending order of keys."""
    powers: dict[bytes, int] = {}
    former: dict[bytes, int] = {}
    for key, value in view.writes.items():
        if not key.startswith(b"verifiers/"):
            continue
        old = before.get(key)
        if old is not None:
            verifier = verifier_from(unpack(old))
            former[verifier.consensus_key] = verifier.power
        if value is not None:
            verifier = verifier_from(unpack(value))
            powers[verifier.consensus_key] = verifier.power
    # A rotation moves a validator to another record and leaves its power as it was.
    changes = {key: 0 for key in former.keys() - powers.keys()}
    changes |= {key: power for key, power in powers.items() if former.get(key) != power}
    return tuple(sorted(changes.items()))
