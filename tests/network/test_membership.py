"""Validators join and leave a running network by vote, and parameters change."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from abci_app.core.governance import PASSED
from abci_app.home import public_key_of
from planetserve.ledger import LedgerClient
from planetserve.statekeys import NEXT_PROPOSAL_KEY, proposal_key
from planetserve.transactions import PROPOSE, VOTE, propose, vote
from tests.network.validators import (
    Chain,
    Validator,
    assert_agreed,
    consensus_seed,
    init_from_a_snapshot,
    person,
    running_chain,
    until_height,
)

PARAMETERS = {"epoch_blocks": 20, "commit_blocks": 10}
SNAPSHOT_BLOCKS = 20
SIGNED_BLOCKS = 20


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("membership")
    with running_chain(folder, 4, PARAMETERS, snapshot_blocks=SNAPSHOT_BLOCKS) as made:
        yield made


async def decide(ledger: LedgerClient, change: Mapping[str, Any], voters: list[int]) -> int:
    """Let the first of `voters` propose a change and the others agree; the height at which it
    has passed."""
    number = (await ledger.read((NEXT_PROPOSAL_KEY,))).records[NEXT_PROPOSAL_KEY] or 1
    await ledger.send(person(voters[0]), PROPOSE, propose(change=change))
    yes = vote(proposal=number, approve=True)
    heights = await asyncio.gather(*(ledger.send(person(voter), VOTE, yes) for voter in voters[1:]))
    key = proposal_key(number)
    proven = await ledger.read((key,))
    assert proven.height >= max(heights)
    record = proven.records[key]
    assert record["outcome"] == PASSED
    return int(record["settled"])


def address_of(consensus_key: bytes) -> str:
    return hashlib.sha256(consensus_key).digest()[:20].hex().upper()


def validators_at(validator: Validator, height: int) -> set[str]:
    shown = validator.call("validators", height=str(height))["validators"]
    return {item["address"] for item in shown}


def signers_of(validator: Validator, height: int) -> set[str]:
    commit = validator.call("commit", height=str(height))["signed_header"]["commit"]
    return {item["validator_address"] for item in commit["signatures"]}


async def test_a_parameter_changes_with_the_next_epoch(chain: Chain) -> None:
    async with LedgerClient(chain.network) as ledger:
        change = {"kind": "parameter", "name": "window_epochs", "value": 7}
        height = await decide(ledger, change, [1, 2, 3])
        status = await ledger.status()
        while status.epoch_start <= height:
            assert status.parameters["window_epochs"] == 5
            await until_height(ledger, status.epoch_end)
            status = await ledger.status()
        assert status.parameters["window_epochs"] == 7


async def test_a_fifth_validator_joins_from_a_snapshot_and_an_old_one_leaves(
    chain: Chain,
) -> None:
    first, *others = chain.validators
    joiner = chain.add()
    for validator in (first, *others):
        validator.wait_above(SNAPSHOT_BLOCKS + 2)
    consensus_key = init_from_a_snapshot(chain, joiner)
    joiner.start()
    earliest = joiner.call("status")["sync_info"]["earliest_block_height"]
    assert int(earliest) > SNAPSHOT_BLOCKS
    joiner.wait_above(first.height)
    assert_agreed(chain.validators, first.height)

    newcomer = person(joiner.number)
    async with LedgerClient(chain.network) as ledger:
        change = {
            "kind": "join",
            "key": newcomer.public_key,
            "name": "verifier-5",
            "consensus_key": consensus_key,
            "onion_key": newcomer.onion_public,
            "transport_key": newcomer.transport_public,
            "power": 10,
        }
        joined = await decide(ledger, change, [1, 2, 3])
        newcomers = address_of(consensus_key)
        first.wait_above(joined + 2 + SIGNED_BLOCKS)
        assert newcomers not in validators_at(first, joined + 1)
        assert newcomers in validators_at(first, joined + 2)
        signed = [newcomers in signers_of(first, joined + 2 + n) for n in range(SIGNED_BLOCKS)]
        assert any(signed)

        leave = {"kind": "leave", "verifier": person(1).id}
        left = await decide(ledger, leave, [2, 3, 4, 5])
        olds = address_of(public_key_of(consensus_seed(1)))
        others[0].wait_above(left + 2)
        assert olds in validators_at(others[0], left + 1)
        remaining = validators_at(others[0], left + 2)
        assert olds not in remaining
        assert newcomers in remaining
        assert len(remaining) == 4

        await decide(ledger, {"kind": "parameter", "name": "window_epochs", "value": 6}, [3, 4, 5])
    # Who was voted out follows the chain until it is ended; the others need it no more.
    assert_agreed(chain.validators, chain.height())
    assert first.stop() == 0
    height = joiner.height
    assert_agreed(chain.validators[1:], height + 3)
    async with LedgerClient(chain.network_of(others)) as fresh:
        names = [verifier.name for verifier in (await fresh.status()).verifiers]
    assert sorted(names) == ["verifier-2", "verifier-3", "verifier-4", "verifier-5"]
