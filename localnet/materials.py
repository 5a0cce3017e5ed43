"""Keys, genesis, validators' homes and the network file: what must lie there before the start."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from abci_app.home import (
    FounderEntry,
    ModelEntry,
    VerifierEntry,
    make_genesis,
    node_id_of,
    public_key_of,
    write_home,
)
from localnet.plan import MODEL, RELAY, VALIDATOR, Layout, Plan, ProcessPlan
from modelnode.engines.default_model import default_model_path
from overlay.replay_log import folder_beside, mark_new
from planetserve.errors import ConfigurationError, UsageError
from planetserve.keys import Identity, identity_from, write_identity
from planetserve.light.trust import TRUST_FOLDER, genesis_validators_hash

TOPOLOGY_COPY = "topology.json"
MODEL_CONTEXT_TOKENS = 2048
"""What `ps-model` gives its engine by default."""
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
    shutil.rmtree(plan.layout.folder / TRUST_FOLDER, ignore_errors=True)
    for folder in (plan.layout.keys, plan.layout.nodes, plan.layout.logs):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    plan.layout.keys.chmod(0o700)
    founders = []
    for process in plan.processes:
        if process.role in (RELAY, MODEL):
            identity = _new_identity()
            key = plan.layout.key(process.name)
            write_identity(key, identity)
            mark_new(folder_beside(key))
            if process.role == MODEL:
                founders.append(FounderEntry(identity.public_key, MODEL))
    genesis = _write_validators(plan, founders)
    genesis_hash = hashlib.sha256(genesis.encode()).hexdigest()
    network = plan.network(genesis_hash, genesis_validators_hash(genesis))
    plan.layout.network_file.write_text(network.to_toml())
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


def _write_validators(plan: Plan, founders: Sequence[FounderEntry]) -> str:
    """Write each validator's home and prober key; returns the genesis, which admits the model
    nodes of the topology and so lets the network answer before its first probes are settled."""
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
        genesis = make_genesis(
            topology.chain_id,
            now,
            entries,
            topology.parameters,
            models=[default_model(topology.model)],
            founders=founders,
        )
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
            local=True,
        )
    return genesis


def default_model(name: str) -> ModelEntry:
    """The model that the network's nodes serve, under the name of the topology."""
    path = default_model_path()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    # GGUF files name their quantization last, as in NAME.Q4_1.gguf.
    quantization = path.stem.rpartition(".")[2]
    return ModelEntry(name, digest, quantization, MODEL_CONTEXT_TOKENS)


def _peer(node: ProcessPlan, seed: bytes) -> str:
    return f"{node_id_of(seed)}@{node.addresses['p2p']}"


def _new_identity() -> Identity:
    return identity_from(os.urandom(96))
