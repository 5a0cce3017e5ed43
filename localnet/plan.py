"""From a topology to the processes that make it up: arguments, ports and files, as values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localnet.topology import VLLM, ModelNode, Topology
from planetserve.errors import ConfigurationError
from planetserve.network import Network

HOST = "127.0.0.1"
VALIDATOR = "validator"
PROBER = "prober"
RELAY = "relay"
MODEL = "model"

ENVIRONMENT: Mapping[str, str] = {
    # Some twenty processes share the machine's cores: one thread each is the fastest for all.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GOMAXPROCS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}

VLLM_ENVIRONMENT: Mapping[str, str] = {**ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1"}
VLLM_OPTIONS = ("--dtype", "bfloat16", "--enforce-eager", "--block-size", "32")
"""For a small model on a few cores: little memory, no minutes of compiling, and blocks so small
that a question's prompt fills some."""

TEN_YEARS_S = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process. `addresses` maps what it listens for to HOST:PORT; `health` is the URL that
    says how it is; `environment` adds to what it inherits."""

    name: str
    role: str
    argv: tuple[str, ...]
    addresses: Mapping[str, str]
    environment: Mapping[str, str]

    @property
    def health(self) -> str:
        return f"http://{self.addresses['http']}/health"

    def ports(self) -> Iterator[tuple[int, str]]:
        """Each port with what it is for."""
        for purpose, address in self.addresses.items():
            yield int(address.rpartition(":")[2]), purpose


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a local network keeps its files, below `folder`."""

    folder: Path

    @property
    def network_file(self) -> Path:
        return self.folder / "network.toml"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def nodes(self) -> Path:
        return self.folder / "nodes"

    def key(self, name: str) -> Path:
        return self.keys / f"{name}.key"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def home(self, name: str) -> Path:
        return self.nodes / name


@dataclass(frozen=True, slots=True)
class Plan:
    """`processes` in the order of their ports; `idle_probers` are the names of the validators'
    probers that have a key and are not run."""

    topology: Topology
    layout: Layout
    processes: tuple[ProcessPlan, ...]
    idle_probers: tuple[str, ...]

    def of_role(self, role: str) -> tuple[ProcessPlan, ...]:
        return tuple(process for process in self.processes if process.role == role)

    def network(self, genesis_hash: str, validators_hash: str) -> Network:
        """The network file's content; both hashes are hex."""
        return Network(
            chain_id=self.topology.chain_id,
            genesis_hash=genesis_hash,
            rpc=tuple(f"http://{node.addresses['rpc']}" for node in self.of_role(VALIDATOR)),
            default_model=self.topology.model,
            allow_cheats=self.topology.allow_cheats,
            genesis_validators_hash=validators_hash,
            # Its validators are the reader's own, so their old signatures stay good.
            trust_period_s=TEN_YEARS_S,
        )


def make_plan(
    topology: Topology, layout: Layout, commands: Path, vllm_model: Path | None = None
) -> Plan:
    """`commands` is the folder of the `ps-*` commands, `vllm_model` the model as vLLM loads it,
    which only a topology that needs vLLM needs.

    Raises `ConfigurationError` when the topology needs ports that do not exist.
    """
    numbers = itertools.count(topology.base_port)
    processes: list[ProcessPlan] = []

    def add(
        name: str,
        role: str,
        command: str,
        options: list[str],
        listens: dict[str, str],
        environment: Mapping[str, str] = ENVIRONMENT,
        passed_on: Sequence[str] = (),
    ) -> None:
        """`listens` maps what is listened for to the option that tells the address, which is
        empty where a file tells it; `passed_on` stands behind `--`."""
        addresses = {purpose: f"{HOST}:{next(numbers)}" for purpose in listens}
        argv = [str(commands / command), "run", *options]
        for purpose, option in listens.items():
            if option:
                argv += [option, addresses[purpose]]
        argv += ["--", *passed_on] if passed_on else []
        processes.append(ProcessPlan(name, role, tuple(argv), addresses, environment))

    for number in range(1, topology.validators + 1):
        name = f"validator-{number}"
        listens = {"p2p": "", "rpc": "", "http": "--http"}
        add(name, VALIDATOR, "ps-node", ["--home", str(layout.home(name))], listens)
    network = ["--network", str(layout.network_file)]
    for number in range(1, topology.probers + 1):
        name = f"prober-{number}"
        options = [*network, "--key", str(layout.key(name)), "--endorse", "open", "--plain"]
        add(name, PROBER, "ps-prober", options, {"http": "--http"})
    for number in range(1, topology.relays + 1):
        name = f"relay-{number}"
        options = [*network, "--key", str(layout.key(name)), "--name", name]
        add(name, RELAY, "ps-relay", options, {"overlay": "--bind", "http": "--http"})
    for node in topology.model_nodes:
        options = [*network, *_model_options(topology, node, layout)]
        listens = {"overlay": "--overlay", "group": "--group", "http": "--http"}
        if node.engine == VLLM:
            options += ["--model-path", str(vllm_model)]
            add(node.name, MODEL, "ps-model", options, listens, VLLM_ENVIRONMENT, VLLM_OPTIONS)
        else:
            add(node.name, MODEL, "ps-model", options, listens)

    last = next(numbers) - 1
    if last > 65535:
        raise ConfigurationError(
            f"the processes need the ports {topology.base_port} to {last}, but ports end at "
            f"65535; base_port may be at most {65535 - (last - topology.base_port)}"
        )
    idle = range(topology.probers + 1, topology.validators + 1)
    return Plan(topology, layout, tuple(processes), tuple(f"prober-{n}" for n in idle))


def _model_options(topology: Topology, node: ModelNode, layout: Layout) -> list[str]:
    options = ["--key", str(layout.key(node.name)), "--name", node.name]
    options += ["--engine", node.engine, "--model", topology.model]
    if node.engine == VLLM:
        options += ["--vllm-log", str(layout.log(f"{node.name}-vllm")), "--parallel", "4"]
    else:
        options += ["--threads", "1"]
    return options if node.cheat is None else [*options, "--cheat", node.cheat]
