"""What CometBFT waits for, measured at the ABCI socket of one app without CometBFT: executing and
committing blocks on a state of 100,000 records, queries meanwhile, and memory over 10,000 blocks.

FinalizeBlock is measured twice: of transactions that the app has never seen, whose signatures and
VRF proofs it must verify (a node that catches up), and of a block that it has checked, and
executed when it was proposed (a validator). The limit holds for both.
"""

from __future__ import annotations

import base64
import json
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.proto.tendermint.crypto import keys_pb2
from bench.figures import Figure
from bench.ledger_app import App, Peer, running_app
from bench.ledger_transactions import (
    CHAIN_ID,
    Cast,
    make_cast,
    make_document,
    registrations,
    scores,
)
from planetserve.encoding import decode, encode
from planetserve.statekeys import CHAIN_KEY, EPOCH_KEY, reputation_key

GENESIS_TIME = "2026-01-01T00:00:00Z"
RECORDS = 100_000
BLOCK = 1_000
PROBERS, NODES = 60, 100
MEMORY_PROBERS, MEMORY_NODES = 10, 10
EPOCH_BLOCKS, COMMIT_BLOCKS = 10, 5
WARM_BLOCKS, BLOCKS = 1_000, 10_000
SAMPLED_BLOCKS, AROUND_BLOCKS = 10, 200
"""Memory is the median of samples, for a snapshot that is being written takes some for itself."""
LARGE_BLOCKS = 100_000
ASK_PAUSE_S = 0.001


@dataclass(slots=True)
class Times:
    """Seconds, one entry a block, or a query."""

    unseen: list[float] = field(default_factory=list)
    unseen_cpu: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    check: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    prepare: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    query: list[float] = field(default_factory=list)


def block_figures(folder: Path) -> list[Figure]:
    times = _measure_blocks(folder / "blocks")
    resident = _measure_memory(folder / "memory")
    ms = 1e3
    return [
        Figure(
            "FinalizeBlock, 1,000 reveals never seen",
            statistics.median(times.unseen) * ms,
            "ms",
            limit=250,
        ),
        Figure(
            "the same, processor time of the app",
            statistics.median(times.unseen_cpu) * ms,
            "ms",
        ),
        Figure(
            "FinalizeBlock, 1,000 reveals as proposed",
            statistics.median(times.seen) * ms,
            "ms",
            limit=250,
        ),
        Figure(
            "Commit at 100,000 records, 1,000 reveals",
            statistics.median(times.commit) * ms,
            "ms",
            limit=30,
        ),
        Figure("CheckTx of a reveal, new", _each(times.check), "us"),
        Figure("CheckTx of a reveal, after a block", _each(times.again), "us"),
        Figure("PrepareProposal, 1,000 reveals", statistics.median(times.prepare) * ms, "ms"),
        Figure("ProcessProposal, 1,000 reveals", statistics.median(times.process) * ms, "ms"),
        Figure(
            "query while blocks commit, median",
            statistics.median(times.query) * ms,
            "ms",
            limit=2,
        ),
        Figure("query while blocks commit, p99", _p99(times.query) * ms, "ms"),
        Figure("memory after 1,000 blocks", resident[0], "MiB"),
        Figure(
            "memory after 10,000 blocks",
            resident[1],
            "MiB",
            limit=1.05,
            peer=resident[0],
        ),
    ]


def _each(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) / BLOCK * 1e6


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def _measure_blocks(home: Path) -> Times:
    """Blocks of 1,000 commits, then of 1,000 reveals: a third of these unseen, a third as
    proposed, a third while another connection asks."""
    cast = make_cast(RECORDS, PROBERS)
    document = make_document(
        cast, GENESIS_TIME, {"epoch_blocks": LARGE_BLOCKS, "commit_blocks": 1 + 2 * PROBERS // 10}
    )
    scored = Cast(cast.validators, cast.founders, cast.probers, cast.nodes[:NODES])
    lanes = [scores(scored, prober) for prober in cast.probers]
    blocks_of = NODES * PROBERS // BLOCK
    commits = _in_blocks([commits for commits, _ in lanes])
    reveals = _in_blocks([reveals for _, reveals in lanes])
    times = Times()
    with running_app(home, CHAIN_ID) as app, app.peer() as consensus, app.peer() as mempool:
        height = _begin(consensus, document, list(registrations(scored)))
        for transactions in commits:
            consensus.finalize(height, transactions)
            consensus.commit()
            height += 1
        first_reveal = 1 + 2 * PROBERS // 10 + 1
        while height < first_reveal:
            consensus.finalize(height, [])
            consensus.commit()
            height += 1
        third = blocks_of // 3
        for transactions in reveals[:third]:
            before_s = app.cpu_s()
            times.unseen.append(consensus.finalize(height, transactions))
            times.unseen_cpu.append(app.cpu_s() - before_s)
            times.commit.append(consensus.commit())
            height += 1
        for transactions in reveals[third : 2 * third]:
            height = _as_validator(consensus, mempool, height, transactions, times)
        _ask_meanwhile(app, consensus, height, reveals[2 * third :], cast, times)
    return times


def _in_blocks(lanes: Sequence[Sequence[bytes]]) -> list[list[bytes]]:
    in_turn = [item for together in zip(*lanes, strict=True) for item in together]
    return [in_turn[start : start + BLOCK] for start in range(0, len(in_turn), BLOCK)]


def _begin(consensus: Peer, document: str, first: Sequence[bytes]) -> int:
    """Start the chain; block 1 is empty, block 2 holds `first`. Returns the next height."""
    content = json.loads(document)
    validators = [
        abci.ValidatorUpdate(
            pub_key=keys_pb2.PublicKey(ed25519=_key(entry)), power=int(entry["power"])
        )
        for entry in content["validators"]
    ]
    request = abci.RequestInitChain(
        chain_id=CHAIN_ID,
        initial_height=1,
        validators=validators,
        app_state_bytes=json.dumps(content["app_state"]).encode(),
    )
    consensus.ask(abci.Request(init_chain=request))
    for height, transactions in ((1, []), (2, list(first))):
        consensus.finalize(height, transactions)
        consensus.commit()
    return 3


def _key(entry: dict[str, dict[str, str]]) -> bytes:
    return base64.b64decode(entry["pub_key"]["value"])


def _as_validator(
    consensus: Peer, mempool: Peer, height: int, transactions: list[bytes], times: Times
) -> int:
    """What a validator sees of transactions: CheckTx of each, once more after a block without
    them, the proposal, the decision. It judges first a proposal that it has not made, and so must
    execute. Returns the next height."""
    times.check.append(mempool.check(transactions))
    consensus.finalize(height, [])
    consensus.commit()
    height += 1
    times.again.append(mempool.check(transactions, again=True))
    prepare = abci.RequestPrepareProposal(height=height, txs=transactions, max_tx_bytes=1 << 20)
    prepared = consensus.ask(abci.Request(prepare_proposal=prepare))
    times.prepare.append(prepared.seconds)
    proposal = list(prepared.response.prepare_proposal.txs)
    if len(proposal) != len(transactions):
        raise RuntimeError(f"only {len(proposal)} transactions were proposed for block {height}")
    for judged in (proposal[:-1], proposal):
        process = abci.RequestProcessProposal(height=height, txs=judged)
        answered = consensus.ask(abci.Request(process_proposal=process))
        if answered.response.process_proposal.status != abci.ResponseProcessProposal.ACCEPT:
            raise RuntimeError(f"the proposal of block {height} was refused")
        if judged is not proposal:
            times.process.append(answered.seconds)
    times.seen.append(consensus.finalize(height, proposal))
    times.commit.append(consensus.commit())
    return height + 1


def _ask_meanwhile(
    app: App,
    consensus: Peer,
    height: int,
    blocks: Sequence[Sequence[bytes]],
    cast: Cast,
    times: Times,
) -> None:
    """Ask for three records with their proofs, over and over, while blocks are executed and
    committed without a pause."""
    keys = [CHAIN_KEY, EPOCH_KEY, reputation_key(cast.nodes[0].id)]
    query = abci.RequestQuery(path="/state", data=encode({"keys": sorted(keys), "stores": []}))
    done = threading.Event()

    def ask() -> None:
        with app.peer() as reader:
            while not done.is_set():
                answered = reader.ask(abci.Request(query=query))
                if answered.response.query.code:
                    raise RuntimeError(answered.response.query.log)
                times.query.append(answered.seconds)
                time.sleep(ASK_PAUSE_S)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for transactions in blocks:
            consensus.finalize(height, transactions)
            consensus.commit()
            height += 1
    finally:
        done.set()
        asking.join()
    if not times.query:
        raise RuntimeError("no query was answered while blocks were committed")


def _measure_memory(home: Path) -> tuple[float, float]:
    """Resident memory after 1,000 and after 10,000 blocks of 20 to 25 commits or reveals, in
    epochs of ten blocks that settle, prune and draw a new seed."""
    cast = make_cast(MEMORY_NODES, MEMORY_PROBERS)
    document = make_document(
        cast,
        GENESIS_TIME,
        {"epoch_blocks": EPOCH_BLOCKS, "commit_blocks": COMMIT_BLOCKS, "history_epochs": 10},
    )
    with running_app(home, CHAIN_ID) as app, app.peer() as consensus:
        height = _begin(consensus, document, list(registrations(cast)))
        nonce = 0
        resident: dict[int, float] = {}
        transactions: list[list[bytes]] = []
        while height <= BLOCKS:
            if height % EPOCH_BLOCKS == 1:
                transactions = _epoch(cast, consensus, height, nonce)
                nonce += 2 * MEMORY_NODES
            consensus.finalize(height, transactions.pop() if transactions else [])
            consensus.commit()
            if height % SAMPLED_BLOCKS == 0:
                resident[height] = app.resident_mib()
            height += 1
    early, late = (
        statistics.median(mib for at, mib in resident.items() if end - AROUND_BLOCKS < at <= end)
        for end in (WARM_BLOCKS, BLOCKS)
    )
    return early, late


def _epoch(cast: Cast, consensus: Peer, height: int, nonce: int) -> list[list[bytes]]:
    """The transactions of the blocks of the epoch that begins with `height`, the last first: all
    commits in the first half, all reveals in the second, nothing in the block that settles."""
    query = abci.RequestQuery(
        path="/state", data=encode({"keys": [EPOCH_KEY], "stores": []}), height=height - 1
    )
    answer = consensus.ask(abci.Request(query=query)).response.query
    if answer.code:
        raise RuntimeError(answer.log)
    running = decode(decode(answer.value)["records"][0]["value"])
    lanes = [
        scores(cast, prober, epoch=running["epoch"], seed=running["seed"], nonce=nonce)
        for prober in cast.probers
    ]
    commits = _shares([raw for commits, _ in lanes for raw in commits], COMMIT_BLOCKS)
    reveals = _shares(
        [raw for _, reveals in lanes for raw in reveals], EPOCH_BLOCKS - COMMIT_BLOCKS - 1
    )
    return [*commits, *reveals][::-1]


def _shares(transactions: Sequence[bytes], count: int) -> list[list[bytes]]:
    size = -(-len(transactions) // count)
    return [list(transactions[start * size : (start + 1) * size]) for start in range(count)]
