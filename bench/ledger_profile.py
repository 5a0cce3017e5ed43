"""Where the processor time of a reveal goes: `python -m bench.ledger_profile [--functions N]`.

One app in this process, asked as CometBFT asks a validator: CheckTx, CheckTx again after a block,
ProcessProposal, FinalizeBlock, Commit, of blocks of 1,000 reveals. Prints microseconds a reveal by
request, and with `--functions` the N functions that cost most in each.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from abci_app.application import Application
from abci_app.handlers import Handlers
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.store import open_store
from bench.ledger_transactions import CHAIN_ID, make_cast, make_document, registrations, scores

GENESIS_TIME = "2026-01-01T00:00:00Z"
NODES, PROBERS = 100, 10
REVEALS = NODES * PROBERS
COMMIT_BLOCKS = 4


class _App:
    def __init__(self, handlers: Handlers, functions: int) -> None:
        self._handlers = handlers
        self._functions = functions
        self.height = 1

    def ask(self, *requests: abci.Request) -> list[abci.Response]:
        encoded = [request.SerializeToString() for request in requests]
        return [
            abci.Response.FromString(
                self._handlers.handle(abci.Request.FromString(each)).SerializeToString()
            )
            for each in encoded
        ]

    def block(self, transactions: Sequence[bytes]) -> None:
        request = abci.RequestFinalizeBlock(height=self.height, txs=transactions)
        for response in self.ask(abci.Request(finalize_block=request)):
            for result in response.finalize_block.tx_results:
                if result.code:
                    raise RuntimeError(result.log)
        self.ask(abci.Request(commit=abci.RequestCommit()))
        self.height += 1

    def measure(self, name: str, work: Callable[[], object]) -> None:
        profile = cProfile.Profile(time.process_time) if self._functions else None
        started_s = time.process_time()
        if profile is None:
            work()
        else:
            profile.runcall(work)
        taken_s = time.process_time() - started_s
        print(f"{name:<32} {taken_s / REVEALS * 1e6:8.1f} us a reveal")
        if profile is not None:
            pstats.Stats(profile).sort_stats("tottime").print_stats(self._functions)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger_profile")
    parser.add_argument("--functions", type=int, default=0, metavar="N")
    functions: int = parser.parse_args().functions
    cast = make_cast(NODES, PROBERS)
    params = {"epoch_blocks": 1_000, "commit_blocks": COMMIT_BLOCKS}
    state = json.loads(make_document(cast, GENESIS_TIME, params))["app_state"]
    lanes = [scores(cast, prober) for prober in cast.probers]
    commits = [raw for commits, _ in lanes for raw in commits]
    reveals = [raw for _, reveals in lanes for raw in reveals]
    with tempfile.TemporaryDirectory(prefix="ps-bench-") as folder:
        store = open_store(Path(folder) / "data", CHAIN_ID)
        application = Application(store, CHAIN_ID)
        application.init_chain(CHAIN_ID, json.dumps(state).encode())
        app = _App(Handlers(application, LedgerMetrics()), functions)
        for transactions in ([], list(registrations(cast)), commits, []):
            app.block(transactions)
        _profile(app, reveals)
        store.close()


def _profile(app: _App, reveals: list[bytes]) -> None:
    new = [abci.Request(check_tx=abci.RequestCheckTx(tx=raw, type=abci.NEW)) for raw in reveals]
    again = [
        abci.Request(check_tx=abci.RequestCheckTx(tx=raw, type=abci.RECHECK)) for raw in reveals
    ]
    app.measure("CheckTx", lambda: app.ask(*new))
    app.block([])
    app.measure("CheckTx again", lambda: app.ask(*again))
    prepare = abci.Request(
        prepare_proposal=abci.RequestPrepareProposal(
            height=app.height, txs=reveals, max_tx_bytes=1 << 20
        )
    )
    app.measure("PrepareProposal", lambda: app.ask(prepare))
    proposed = app.ask(prepare)[0].prepare_proposal.txs
    # Another block than the one prepared, which is known already.
    process = abci.RequestProcessProposal(height=app.height, txs=proposed[:-1])
    app.measure("ProcessProposal", lambda: app.ask(abci.Request(process_proposal=process)))
    finalize = abci.RequestFinalizeBlock(height=app.height, txs=proposed)
    app.measure("FinalizeBlock", lambda: app.ask(abci.Request(finalize_block=finalize)))
    app.measure("Commit", lambda: app.ask(abci.Request(commit=abci.RequestCommit())))


if __name__ == "__main__":
    main()
