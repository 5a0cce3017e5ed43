"""An upgrade that was voted and that no validator has installed: all stop before it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from planetserve.ledger import LedgerClient
from planetserve.statekeys import UPGRADE_KEY
from planetserve.transactions import PROPOSE, VOTE, propose, vote
from tests.network.validators import person, run, running_chain

VOTING_BLOCKS = 8
NOTICE_BLOCKS = 30


async def test_all_stop_before_rules_that_they_do_not_have(tmp_path: Path) -> None:
    parameters = {"epoch_blocks": 10, "commit_blocks": 5, "voting_blocks": VOTING_BLOCKS}
    with running_chain(tmp_path, 4, parameters) as chain:
        async with LedgerClient(chain.network) as ledger:
            height = (await ledger.status()).height + NOTICE_BLOCKS
            change = {"kind": "upgrade", "version": 2, "height": height}
            await ledger.send(person(1), PROPOSE, propose(change=change))
            yes = vote(proposal=1, approve=True)
            await asyncio.gather(*(ledger.send(person(number), VOTE, yes) for number in (2, 3)))
            scheduled = (await ledger.read((UPGRADE_KEY,))).records[UPGRADE_KEY]
            assert scheduled == {"version": 2, "height": height}
        codes = [validator.wait_end() for validator in chain.validators]
        assert codes == [2] * 4
        for validator in chain.validators:
            error = validator.output().strip().splitlines()[-1]
            assert error.startswith("error: ")
            assert f"from block {height} on the chain follows version 2" in error
            assert "install a PlanetServe release that supports version 2" in error
        stopped = [validator.inspect() for validator in chain.validators]
        assert {report["height"] for report in stopped} == {height - 1}
        assert len({report["app_hash"] for report in stopped}) == 1

        again = run("ps-node", "run", "--home", str(chain.validators[0].home))
        assert again.returncode == 2
        assert "supports version 2" in again.stderr
        assert "Traceback" not in again.stderr
        assert chain.validators[0].inspect() == stopped[0]
