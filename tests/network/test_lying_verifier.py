"""One verifier of four lies about an honest node in every way it can: only its own trust falls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from abci_app.core.codes import Code
from planetserve.errors import TransactionRejected
from planetserve.ledger import LedgerClient
from planetserve.records import TRUSTED, ChainStatus
from planetserve.statekeys import commit_key, result_key
from planetserve.transactions import COMMIT, REVEAL, commit
from tests.network.validators import (
    admit,
    commit_score,
    fresh_epoch,
    person,
    running_chain,
    score_of,
    until_height,
)

HONEST = [person(number) for number in (1, 2, 3)]
LIAR = person(4)
NODE = person(9)
GOOD_PPM, BAD_PPM = 900_000, 0
PARAMETERS = {"epoch_blocks": 20, "commit_blocks": 11, "trust_loss_ppm": 250_000}


async def judge_honestly(ledger: LedgerClient, status: ChainStatus) -> None:
    scores = [score_of(prober, status, NODE, GOOD_PPM) for prober in HONEST]
    await asyncio.gather(
        *(commit_score(ledger, *pair) for pair in zip(HONEST, scores, strict=True))
    )
    await until_height(ledger, status.commit_end)
    await asyncio.gather(
        *(ledger.send(prober, REVEAL, score) for prober, score in zip(HONEST, scores, strict=True))
    )


async def slander(ledger: LedgerClient, status: ChainStatus) -> None:
    """Report the node as bad."""
    score = score_of(LIAR, status, NODE, BAD_PPM)
    await commit_score(ledger, LIAR, score)
    await until_height(ledger, status.commit_end)
    await ledger.send(LIAR, REVEAL, score)


async def withhold(ledger: LedgerClient, status: ChainStatus) -> None:
    """Commit to the truth and keep it back."""
    await commit_score(ledger, LIAR, score_of(LIAR, status, NODE, GOOD_PPM))


async def copy(ledger: LedgerClient, status: ChainStatus) -> None:
    """Commit to what another has committed to, and open it as the other does."""
    key = commit_key(HONEST[0].id, NODE.id)
    copied = None
    while copied is None:
        copied = (await ledger.read((key,))).records[key]
    data = commit(epoch=status.epoch, node=NODE.id, commitment=copied["commitment"])
    await ledger.send(LIAR, COMMIT, data)
    await until_height(ledger, status.commit_end)
    with pytest.raises(TransactionRejected) as refusal:
        await ledger.send(LIAR, REVEAL, score_of(HONEST[0], status, NODE, GOOD_PPM))
    assert refusal.value.code == Code.NO_COMMITMENT


async def sit_out(ledger: LedgerClient, status: ChainStatus) -> None:
    """Who kept a score back may not commit in the next epoch."""
    with pytest.raises(TransactionRejected) as refusal:
        await slander(ledger, status)
    assert refusal.value.code == Code.BENCHED


async def test_a_lying_verifier_moves_nobody_but_itself(tmp_path: Path) -> None:
    with running_chain(tmp_path, 4, PARAMETERS) as chain:
        async with LedgerClient(chain.network) as ledger:
            await admit(ledger, NODE, "model-a", "model")
            epochs, standings = [], []
            # First as its admission, then as a trusted node.
            for lie in (slander, slander, withhold, sit_out, copy):
                status = await fresh_epoch(ledger)
                await asyncio.gather(judge_honestly(ledger, status), lie(ledger, status))
                await until_height(ledger, status.epoch_end)
                epochs.append(status.epoch)
                verifiers = {item.id: item for item in (await ledger.status()).verifiers}
                liar = verifiers.pop(LIAR.id)
                standings.append((liar.trust_ppm, liar.power))
                assert {(item.trust_ppm, item.power) for item in verifiers.values()} == {
                    (1_000_000, 10)
                }
                node = (await ledger.routes()).find(NODE.id)
                assert node is not None
                assert node.status == TRUSTED
            # One node's scores are too few to call a prober far off; what it withholds is a fault.
            assert standings == [
                (1_000_000, 10),
                (1_000_000, 10),
                (750_000, 10),
                (750_000, 10),
                (500_000, 10),
            ]
            results = (await ledger.read([result_key(e, NODE.id) for e in epochs])).records
            assert [item["credit_ppm"] for item in results.values()] == [GOOD_PPM] * len(epochs)
            assert [len(item["scores"]) for item in results.values()] == [4, 4, 3, 3, 3]
        height = chain.height() + 2
        for validator in chain.validators:
            validator.wait_above(height)
            shown = validator.call("validators", height=str(height))["validators"]
            assert [item["voting_power"] for item in shown] == ["10", "10", "10", "10"]
