"""`ps-ledger epoch N`: what an epoch's probers did and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planetserve.ledger_cli.application import AsJson, NetworkFile, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask, read_from
from planetserve.ledger_cli.display import (
    decimal,
    plural,
    share,
    short,
    show_json,
    show_lines,
    show_pairs,
    show_table,
    show_verified,
)

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient

KEYS_A_READ = 500


@dataclass(frozen=True, slots=True)
class Settled:
    """An epoch's record with its results; fewer than its `nodes` where a node is gone whose id
    nothing names any more."""

    record: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]
    names: Mapping[bytes, str]
    height: int


@dataclass(frozen=True, slots=True)
class Running:
    """The current epoch: its window and, by verifier, what its scores weigh and what was done so
    far."""

    epoch: int
    start: int
    commit_end: int
    reveal_end: int
    end: int
    seed: bytes
    sample_ppm: int
    probers: tuple[Mapping[str, Any], ...]
    names: Mapping[bytes, str]
    height: int


@app.command()
def epoch(
    number: Annotated[int, typer.Argument(metavar="N", min=0)],
    network: NetworkFile = None,
    as_json: AsJson = False,
) -> None:
    """An epoch's commits, reveals and results."""
    found = ask(network, lambda ledger: read_epoch(ledger, number))
    with answers_of_expected_form():
        if isinstance(found, Running):
            _show_running(found, as_json=as_json)
        else:
            _show_settled(found, as_json=as_json)


async def read_epoch(ledger: LedgerClient, number: int) -> Settled | Running:
    """Raises `UsageError` for an epoch that has not begun or is not kept any more."""
    from planetserve.errors import UsageError
    from planetserve.ledger_cli.lookup import every_node, names_of
    from planetserve.records import chain_status
    from planetserve.statekeys import CHAIN_KEY, EPOCH_KEY, epoch_key

    keys = [CHAIN_KEY, EPOCH_KEY, epoch_key(number)]
    proven = await ledger.read(keys, ["quotas", "routes", "verifiers", "waiting"])
    main, running, record = (proven.records[key] for key in keys)
    verifiers = list(proven.stores["verifiers"].values())
    status = chain_status(proven.height, main, running, verifiers)
    found = every_node(proven)
    with answers_of_expected_form():
        names = names_of(found, verifiers)
    if number == status.epoch:
        with answers_of_expected_form():
            probers = _probers(running["powers"], proven.stores["quotas"])
        return Running(
            epoch=number,
            start=status.epoch_start,
            commit_end=status.commit_end,
            reveal_end=status.reveal_end,
            end=status.epoch_end,
            seed=status.seed,
            sample_ppm=status.sample_ppm,
            probers=probers,
            names=names,
            height=proven.height,
        )
    if number > status.epoch:
        raise UsageError(f"epoch {number} has not begun: epoch {status.epoch} is running")
    if record is None:
        kept = status.parameters["history_epochs"]
        raise UsageError(
            f"epoch {number} is not kept any more: the ledger drops what is older than "
            f"{plural(kept, 'epoch')} and epoch {status.epoch} is running"
        )
    scored = [bytes(node.id) for node in found.nodes if node.reputation_ppm is not None]
    results = await _results(ledger, proven.height, number, scored)
    if len(results) < record["nodes"]:
        # Some have rotated their key, or serve no model any more.
        others = await _other_ids(ledger, proven.height, set(scored))
        results += await _results(ledger, proven.height, number, others)
    ordered = tuple(sorted(results, key=lambda result: bytes(result["node"])))
    return Settled(record, ordered, names, proven.height)


def _probers(
    powers: Iterable[tuple[bytes, int]], quotas: Mapping[bytes, Any]
) -> tuple[Mapping[str, Any], ...]:
    """In ascending order of ids. Who has joined since the epoch began weighs nothing in it."""
    from planetserve.statekeys import quota_key

    weights = {bytes(verifier): int(power) for verifier, power in powers}
    every = {*weights, *(key.partition(b"/")[2] for key in quotas)}
    nothing = {"commits": 0, "reveals": 0}
    found = []
    for prober in sorted(every):
        done = quotas.get(quota_key(prober), nothing)
        found.append(
            {
                "id": prober,
                "power": weights.get(prober, 0),
                "commits": done["commits"],
                "reveals": done["reveals"],
            }
        )
    return tuple(found)


async def _results(
    ledger: LedgerClient, height: int, number: int, nodes: list[bytes]
) -> list[Mapping[str, Any]]:
    from planetserve.statekeys import result_key

    found = []
    for start in range(0, len(nodes), KEYS_A_READ):
        keys = [result_key(number, node) for node in nodes[start : start + KEYS_A_READ]]
        proven = await read_from(ledger, height, keys)
        found += [record for record in proven.records.values() if record is not None]
    return found


async def _other_ids(ledger: LedgerClient, height: int, known: set[bytes]) -> list[bytes]:
    from planetserve.keys import node_id

    proven = await read_from(ledger, height, stores=["nodes"])
    with answers_of_expected_form():
        records = proven.stores["nodes"].values()
        every = {
            bytes(item)
            for node in records
            for item in (node_id(node["key"]), *(former for former, _ in node["former"]))
        }
    return sorted(every - known)


def _show_running(found: Running, *, as_json: bool) -> None:
    commits = sum(prober["commits"] for prober in found.probers)
    reveals = sum(prober["reveals"] for prober in found.probers)
    if as_json:
        show_json(
            {
                "height": found.height,
                "verified_height": found.height,
                "epoch": found.epoch,
                "settled": None,
                "start": found.start,
                "commit_end": found.commit_end,
                "reveal_end": found.reveal_end,
                "end": found.end,
                "seed": found.seed,
                "sample_ppm": found.sample_ppm,
                "commits": commits,
                "reveals": reveals,
                "probers": list(found.probers),
                "results": [],
            }
        )
        return
    from planetserve.ledger_cli.lookup import name_in

    show_pairs(
        [
            ("epoch", found.epoch),
            ("heights", f"{found.start} to {found.end - 1}"),
            ("settled", f"not yet: with block {found.end - 1}"),
            ("seed", found.seed.hex()),
            ("commits", f"{commits}, at heights {found.start} to {found.commit_end - 1}"),
            ("reveals", f"{reveals}, at heights {found.commit_end} to {found.reveal_end - 1}"),
        ]
    )
    if found.probers:
        rows = [
            [name_in(found.names, p["id"]), p["power"], p["commits"], p["reveals"]]
            for p in found.probers
        ]
        show_table(["prober", "power", "commits", "reveals"], rows)
    show_verified(found.height)


def _show_settled(found: Settled, *, as_json: bool) -> None:
    from planetserve.ledger_cli.lookup import name_in
    from planetserve.scoring.reputation import reputation_from

    record = found.record
    if as_json:
        fields = ("prober", "power", "score_ppm", "samples", "digest")
        results = [
            {
                **item,
                "scores": [dict(zip(fields, s, strict=True)) for s in item["scores"]],
                "status": reputation_from(item["after"]).status,
            }
            for item in found.results
        ]
        show_json(
            {
                "height": found.height,
                "verified_height": found.height,
                **{name: value for name, value in record.items() if name != "height"},
                "results": results,
            }
        )
        return
    contributor = record["contributor"]
    show_pairs(
        [
            ("epoch", record["epoch"]),
            ("heights", f"{record['start']} to {record['settled']}"),
            ("settled", f"at height {record['settled']}, {plural(record['nodes'], 'node')}"),
            ("seed", record["seed"].hex()),
            (
                "next seed",
                f"by {name_in(found.names, contributor)}" if contributor else "by nobody",
            ),
            ("sampled", f"{decimal(record['sample_ppm'])} of the probers a trusted node"),
            ("commits", record["commits"]),
            ("reveals", record["reveals"]),
        ]
    )
    probers = [
        [
            name_in(found.names, item["id"]),
            item["commits"],
            item["reveals"],
            f"{item['far']} of {item['compared']}",
        ]
        for item in record["probers"]
    ]
    if probers:
        show_table(["prober", "commits", "reveals", "far from the credit"], probers)
    rows = [
        [
            found.names.get(item["node"]) or short(item["node"]),
            share(item["credit_ppm"]),
            f"{share(item['before']['ppm'])} -> {share(item['after']['ppm'])}",
            reputation_from(item["after"]).status,
            item["verdict"] or item["reason"],
        ]
        for item in found.results
    ]
    if rows:
        show_table(["node", "credit C", "reputation R", "status", "why"], rows)
    missing = record["nodes"] - len(found.results)
    if missing > 0:
        show_lines([f"{plural(missing, 'result')} of nodes that the ledger has forgotten"])
    show_verified(found.height)
