"""Validators that end at the worst moments go on from the very state of the others.

CometBFT ends itself at its FAIL_TEST_INDEX-th call of `fail.Fail`. A validator that takes part in
a height passes eleven: after writing its prevote and its precommit to its log; before the block is
saved, after it, after the height's end is logged; after FinalizeBlock, after its results are
saved, after Commit, after the state is saved; before and after the step to the next height. One
that catches up passes the four in the middle for each block. The ledger ends itself at the points
of `abci_app.crash`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import pytest

from abci_app.crash import EXIT_CODE, VARIABLE
from abci_app.home import SNAPSHOTS
from planetserve.ledger import LedgerClient
from planetserve.statekeys import account_key
from planetserve.transactions import UPDATE, sign_transaction
from tests.network.validators import (
    CHAIN_ID,
    Chain,
    Validator,
    admit,
    assert_agreed,
    broadcast,
    init_from_a_snapshot,
    person,
    registration,
    running_chain,
)

CONSENSUS_POINTS = range(11)
CATCHING_UP_POINTS = range(4)
BLOCK_POINTS = (
    "before-finalize",
    "after-finalize",
    "before-write",
    "after-write",
    "before-commit-answer",
)
RELAY = person(9)
SNAPSHOT_POINTS = ("snapshot-chunk", "snapshot-written")
RESTORE_POINTS = ("restore-chunk", "restore-before-write", "after-write")
"""At the last CometBFT has not stored its half of the state yet."""
MISSED_BLOCKS = 4
SNAPSHOT_BLOCKS = 20


class Sender:
    """Sends one transaction of a node's key after the other, and knows how many there were."""

    def __init__(self, validator: Validator, sent: int) -> None:
        self._validator = validator
        self.sent = sent

    async def send(self) -> None:
        data = registration(RELAY, f"relay-{self.sent}", "relay")
        raw = sign_transaction(RELAY, CHAIN_ID, self.sent, UPDATE, data)
        assert await broadcast(self._validator, raw) == (0, "")
        self.sent += 1


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    parameters = {"epoch_blocks": 10, "commit_blocks": 5}
    folder = tmp_path_factory.mktemp("crashes")
    with running_chain(folder, 4, parameters, snapshot_blocks=SNAPSHOT_BLOCKS) as made:
        made.wait_above(2)
        yield made


@pytest.fixture(scope="module")
def sender(chain: Chain) -> Sender:
    """Its key is endorsed, so that several transactions may wait while the chain stands still."""

    async def begin() -> None:
        async with LedgerClient(chain.network) as ledger:
            await admit(ledger, RELAY, "relay", "relay")

    asyncio.run(begin())
    return Sender(chain.validators[0], sent=1)


async def goes_on(chain: Chain, sender: Sender) -> None:
    """While the last validator is away the others take transactions; then it comes back."""
    witness, victim = chain.validators[0], chain.validators[-1]
    await sender.send()
    witness.wait_above(witness.height + MISSED_BLOCKS)
    victim.start()
    await sender.send()
    async with LedgerClient(chain.network_of([victim])) as ledger:
        key, nonce = account_key(RELAY.id), 0
        while nonce < sender.sent:
            record = (await ledger.read((key,))).records[key]
            nonce = 0 if record is None else record["nonce"]
    assert nonce == sender.sent
    assert_agreed(chain.validators, witness.height)


async def crash_in_consensus(chain: Chain, sender: Sender, index: int) -> None:
    """With two of four away the chain stands still, so that one comes back in time to vote on the
    height in which it is to crash."""
    partner, victim = chain.validators[2:]
    partner.kill()
    victim.kill()
    await sender.send()
    victim.start({"FAIL_TEST_INDEX": str(index)}, wait=False)
    partner.start(wait=False)
    assert victim.wait_end() == 1
    assert f"*** fail-test {index} ***" in victim.output()


async def crash_alone(
    chain: Chain, sender: Sender, environment: Mapping[str, str], code: int
) -> None:
    """The victim misses some blocks and crashes when it comes back."""
    witness, victim = chain.validators[0], chain.validators[-1]
    victim.kill()
    await sender.send()
    witness.wait_above(witness.height + MISSED_BLOCKS)
    victim.start(environment, wait=False)
    assert victim.wait_end() == code


@pytest.mark.parametrize("index", [4, 7])
async def test_cometbft_crashes_in_a_block(chain: Chain, sender: Sender, index: int) -> None:
    await crash_in_consensus(chain, sender, index)
    await goes_on(chain, sender)


@pytest.mark.parametrize("point", ["after-write"])
async def test_the_ledger_crashes_in_a_block(chain: Chain, sender: Sender, point: str) -> None:
    await crash_alone(chain, sender, {VARIABLE: f"{point}:3"}, EXIT_CODE)
    await goes_on(chain, sender)


@pytest.mark.long
@pytest.mark.parametrize("index", CONSENSUS_POINTS)
async def test_cometbft_crashes_anywhere_in_a_block(
    chain: Chain, sender: Sender, index: int
) -> None:
    await crash_in_consensus(chain, sender, index)
    await goes_on(chain, sender)


@pytest.mark.long
@pytest.mark.parametrize("index", CATCHING_UP_POINTS)
async def test_cometbft_crashes_anywhere_while_it_catches_up(
    chain: Chain, sender: Sender, index: int
) -> None:
    await crash_alone(chain, sender, {"FAIL_TEST_INDEX": str(index)}, 1)
    assert f"*** fail-test {index} ***" in chain.validators[-1].output()
    await goes_on(chain, sender)


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("point", BLOCK_POINTS)
async def test_the_ledger_crashes_anywhere_in_a_block(
    chain: Chain, sender: Sender, point: str, count: int
) -> None:
    await crash_alone(chain, sender, {VARIABLE: f"{point}:{count}"}, EXIT_CODE)
    await goes_on(chain, sender)


@pytest.mark.long
@pytest.mark.parametrize("point", SNAPSHOT_POINTS)
async def test_the_ledger_crashes_while_it_writes_a_snapshot(
    chain: Chain, sender: Sender, point: str
) -> None:
    await crash_alone(chain, sender, {VARIABLE: point}, EXIT_CODE)
    await goes_on(chain, sender)
    victim = chain.validators[-1]
    victim.wait_above(victim.height + SNAPSHOT_BLOCKS + 1)
    snapshots = victim.home / SNAPSHOTS
    newest = max(int(entry.name) for entry in snapshots.iterdir())
    assert newest > victim.height - 2 * SNAPSHOT_BLOCKS


@pytest.mark.long
async def test_the_ledger_crashes_while_it_restores_a_snapshot(
    chain: Chain, sender: Sender
) -> None:
    first, *_ = running = list(chain.validators)
    for validator in running:
        validator.wait_above(SNAPSHOT_BLOCKS + 2)
    joiner = chain.add()
    init_from_a_snapshot(chain, joiner)
    for point in RESTORE_POINTS:
        joiner.start({VARIABLE: point}, wait=False)
        assert joiner.wait_end() == EXIT_CODE
        assert (joiner.inspect()["height"] == 0) is (point != "after-write")
        await sender.send()
    joiner.start()
    assert_agreed(chain.validators, first.height)
    joiner.stop()
    chain.validators.remove(joiner)
