"""`ps-ledger status | params`: where the chain stands and by which numbers it goes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from planetserve.ledger_cli.application import AsJson, NetworkFile, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask
from planetserve.ledger_cli.display import (
    decimal,
    share,
    show_json,
    show_lines,
    show_pairs,
    show_table,
    show_verified,
)

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.light.proven import Proven
    from planetserve.records import ChainStatus


@app.command()
def status(network: NetworkFile = None, as_json: AsJson = False) -> None:
    """Height, epoch and its windows, how many nodes there are, and the verifiers."""

    async def read(ledger: LedgerClient) -> tuple[ChainStatus, Proven]:
        from planetserve.records import chain_status
        from planetserve.statekeys import CHAIN_KEY, EPOCH_KEY

        proven = await ledger.read([CHAIN_KEY, EPOCH_KEY], ["routes", "verifiers", "waiting"])
        main, epoch = proven.records[CHAIN_KEY], proven.records[EPOCH_KEY]
        verifiers = proven.stores["verifiers"].values()
        return chain_status(proven.height, main, epoch, verifiers), proven

    found, proven = ask(network, read)
    with answers_of_expected_form():
        counts: dict[str, int] = {}
        for store in ("routes", "waiting"):
            for record in proven.stores[store].values():
                counts[record["status"]] = counts.get(record["status"], 0) + 1
    if as_json:
        show_json(_status_json(found, counts, proven.header.app_hash))
        return
    last = {"epoch": found.epoch_end, "commits": found.commit_end, "reveals": found.reveal_end}
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    show_pairs(
        [
            ("chain", found.chain_id),
            ("rules", f"version {found.version}"),
            ("height", found.height),
            ("app hash", proven.header.app_hash.hex()),
            ("nodes", f"{sum(counts.values())}: {listed}" if counts else "none"),
            ("epoch", f"{found.epoch}, heights {found.epoch_start} to {last['epoch'] - 1}"),
            ("commits", f"at heights {found.epoch_start} to {last['commits'] - 1}"),
            ("reveals", f"at heights {found.commit_end} to {last['reveals'] - 1}"),
            ("sampled", f"a trusted node is judged by {decimal(found.sample_ppm)} of the probers"),
        ]
    )
    rows = [
        [
            verifier.name,
            verifier.id.hex(),
            verifier.power,
            verifier.voted_power,
            share(verifier.trust_ppm),
            f"to epoch {verifier.benched}" if verifier.benched >= found.epoch else "-",
        ]
        for verifier in found.verifiers
    ]
    show_table(["verifier", "id", "power", "voted", "trust", "benched"], rows)
    show_verified(found.height)


def _status_json(found: ChainStatus, counts: dict[str, int], app_hash: bytes) -> dict[str, Any]:
    content = asdict(found)
    parameters = content.pop("parameters")
    return {
        "height": found.height,
        "verified_height": found.height,
        **content,
        "app_hash": app_hash,
        "nodes": counts,
        "params": dict(parameters),
    }


@app.command()
def params(network: NetworkFile = None, as_json: AsJson = False) -> None:
    """The network's parameters, and what verifiers have voted to change."""
    from planetserve.statekeys import CHAIN_KEY, PENDING_KEY, UPGRADE_KEY

    proven = ask(network, lambda ledger: ledger.read([CHAIN_KEY, PENDING_KEY, UPGRADE_KEY]))
    with answers_of_expected_form():
        main = proven.records[CHAIN_KEY]
        pending = proven.records[PENDING_KEY] or {}
        upgrade = proven.records[UPGRADE_KEY]
        if as_json:
            show_json(
                {
                    "height": proven.height,
                    "verified_height": proven.height,
                    "version": main["version"],
                    "params": main["params"],
                    "pending": pending,
                    "upgrade": upgrade,
                }
            )
            return
        rows = [
            [name, _value(name, value), _value(name, pending[name]) if name in pending else ""]
            for name, value in main["params"].items()
        ]
        show_table(["parameter", "value", "from the next epoch on"], rows)
        show_lines([f"the rules are of version {main['version']}"])
        if upgrade is not None:
            show_lines([f"version {upgrade['version']} takes over at height {upgrade['height']}"])
    show_verified(proven.height)


def _value(name: str, value: int) -> str:
    return decimal(value) if name.endswith("_ppm") else f"{value:,}"
