"""Keys, genesis, validators' homes and the network file: what must lie there before the start."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from datetime import UTC, datetime

from abci_app.home import VerifierEntry, make_genesis, node_id_of, public_key_of, write_home
from localnet.plan import VALIDATOR, Layout, Plan, ProcessPlan
from planetserve.errors import ConfigurationError, UsageError
from planetserve.keys import Identity, identity_from, write_identity

TOPOLOGY_COPY = "topology.json"
MARKER = "made-by-ps-localnet"
"""A file that says that what is in the folder may be made anew."""


def prepare(plan: Plan, *, keep: bool) -> None:
    """Make everything afresh; with `keep`, go on from what the last run left.

    Raises `UsageError` when there is nothing to keep or it was made for another topology,
    `ConfigurationError` when the ledger refuses the topology's parameters.
    """
    copy = plan.layout.folder / TOPOLOGY_COPY
    topology = json.dumps(asdict(plan.topology), indent=2, sort_keys=True) + "\n"
    if keep:
        if not copy.exists():
            raise UsageError(f"there is nothing to keep in {plan.layout.folder}")
        if copy.read_text() != topology:
            raise UsageError(
                f"{plan.layout.folder} was made for another topology or base port; run without "
                "--keep to start afresh"
            )
        return
    _refuse_foreign(plan.layout)
    (plan.layout.folder / MARKER).touch()
    copy.unlink(missing_ok=True)
    for folder in (plan.layout.keys, plan.layout.nodes, plan.layout.logs):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    plan.layout.keys.chmod(0o700)
    genesis = _write_validators(plan)
    for process in plan.processes:
        key = plan.layout.key(process.name)
        if process.role != VALIDATOR and not key.exists():
            write_identity(key, _new_identity())
    genesis_hash = hashlib.sha256(genesis.encode()).hexdigest()
    plan.layout.network_file.write_text(plan.network(genesis_hash).to_toml())
    # Last, so that a run that was cut off here leaves nothing to keep.
    copy.write_text(topology)


def _refuse_foreign(layout: Layout) -> None:
    """Starting afresh removes keys, chains and logs: never those that we did not make."""
    if (layout.folder / MARKER).exists():
        return
    found = [f for f in (layout.keys, layout.nodes, layout.logs) if f.exists()]
    if found:
        raise UsageError(
            f"{found[0]} was not made by ps-localnet and would be removed; name another folder "
            "with --dir"
        )


def _write_validators(plan: Plan) -> str:
    """Write each validator's home and prober key; returns the genesis."""
    validators = plan.of_role(VALIDATOR)
    consensus = {node.name: os.urandom(32) for node in validators}
    peer_keys = {node.name: os.urandom(32) for node in validators}
    entries = []
    for number, node in enumerate(validators, start=1):
        prober = _new_identity()
        write_identity(plan.layout.key(f"prober-{number}"), prober)
        entries.append(
            VerifierEntry(
                name=node.name,
                prober_key=prober.public_key,
                onion_key=prober.onion_public,
                transport_key=prober.transport_public,
                consensus_key=public_key_of(consensus[node.name]),
                power=plan.topology.power,
            )
        )
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    topology = plan.topology
    try:
        genesis = make_genesis(topology.chain_id, now, entries, topology.parameters)
    except ConfigurationError as error:
        raise ConfigurationError(f"the topology's parameters: {error}") from error
    peers = {node.name: _peer(node, peer_keys[node.name]) for node in validators}
    for node in validators:
        write_home(
            plan.layout.home(node.name),
            genesis=genesis,
            moniker=node.name,
            consensus_seed=consensus[node.name],
            node_seed=peer_keys[node.name],
            p2p=node.addresses["p2p"],
            rpc=node.addresses["rpc"],
            peers=[peer for name, peer in peers.items() if name != node.name],
            block_interval_s=topology.block_interval_ms / 1000,
        )
    return genesis


def _peer(node: ProcessPlan, seed: bytes) -> str:
    return f"{node_id_of(seed)}@{node.addresses['p2p']}"


def _new_identity() -> Identity:
    return identity_from(os.urandom(96))
