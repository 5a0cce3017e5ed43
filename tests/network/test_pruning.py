"""A node that is told to keep little forgets blocks, settled epochs and what trees left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from abci_app.home import DATABASE
from abci_app.store import RECORDS, TREES, open_store
from planetserve.ledger import LedgerClient
from planetserve.rpc import Rpc, RpcError
from planetserve.transactions import REGISTER, UPDATE
from tests.network.validators import CHAIN_ID, person, registration, run, running_chain

RELAY = person(9)
KEEP_BLOCKS, EVIDENCE_BLOCKS, SNAPSHOT_BLOCKS = 30, 10, 10
HISTORY_EPOCHS, EPOCH_BLOCKS = 3, 5
HEIGHT = 120


async def test_what_is_old_is_forgotten(tmp_path: Path) -> None:
    parameters = {
        "epoch_blocks": EPOCH_BLOCKS,
        "commit_blocks": 2,
        "history_epochs": HISTORY_EPOCHS,
    }
    with running_chain(
        tmp_path,
        1,
        parameters,
        0.05,
        snapshot_blocks=SNAPSHOT_BLOCKS,
        keep_blocks=KEEP_BLOCKS,
        evidence_blocks=EVIDENCE_BLOCKS,
    ) as chain:
        validator = chain.validators[0]
        async with LedgerClient(chain.network) as ledger:
            height = await ledger.send(RELAY, REGISTER, registration(RELAY, "relay-0", "relay"))
            while height < HEIGHT:
                data = registration(RELAY, f"relay-{height}", "relay")
                height = await ledger.send(RELAY, UPDATE, data)
        sync = validator.call("status")["sync_info"]
        kept = int(sync["latest_block_height"]) - int(sync["earliest_block_height"])
        assert KEEP_BLOCKS - 1 <= kept <= KEEP_BLOCKS + SNAPSHOT_BLOCKS
        rpc = Rpc([validator.address])
        with pytest.raises(RpcError, match="lowest height"):
            await rpc.call("block", height="3")
        await rpc.close()
        assert validator.stop() == 0
        done = run("ps-node", "compact", "--home", str(validator.home))
        assert (done.returncode, done.stderr) == (0, "")
        records = validator.inspect()["records"]
        assert records["epochs"] <= HISTORY_EPOCHS + 1
        snapshots = list((validator.home / "data" / "snapshots").iterdir())
        assert 1 <= len(snapshots) <= 3

        store = open_store(validator.home / DATABASE, CHAIN_ID)
        try:
            while store.sweep():
                pass
            count = {
                prefix: sum(1 for _ in store._database.iterator(prefix=prefix))
                for prefix in (RECORDS, TREES)
            }
        finally:
            store.close()
        assert count[RECORDS] == sum(records.values())
        # A tree over n records has n leaves and n - 1 places where two of them part; where they
        # part late there are more, about one for each.
        assert count[TREES] <= 4 * count[RECORDS]
