"""The topology file: what a local network consists of."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from planetserve.errors import ConfigurationError

CHEATS = ("tamper", "truncate", "random", "swap")
"""What `ps-model --cheat` knows."""

LLAMACPP = "llamacpp"
VLLM = "vllm"
ENGINES = (LLAMACPP, VLLM)
"""What a local network's model nodes run, of what `ps-model --engine` knows."""

PACKAGED = {LLAMACPP: "default.toml", VLLM: "vllm.toml"}
"""The topologies that this package ships, by the engine that they show."""

MAX_PROCESSES = 200
"""Of one role: more would not run on one machine."""

_TOP = {
    "chain_id": str,
    "base_port": int,
    "model": str,
    "block_interval_ms": int,
    "allow_cheats": bool,
    "restart": bool,
    "parameters": dict,
    "validators": dict,
    "relays": dict,
    "model_nodes": list,
}
_OPTIONAL = {"restart": False, "allow_cheats": False, "parameters": {}, "model_nodes": []}
_VALIDATORS = {"count": int, "power": int, "probers": int}
_RELAYS = {"count": int}
_MODEL_NODE = {"name": str, "engine": str, "cheat": str}


@dataclass(frozen=True, slots=True)
class ModelNode:
    """`engine` is a word of `ENGINES`, `cheat` one of `CHEATS`, None for an honest node."""

    name: str
    cheat: str | None = None
    engine: str = LLAMACPP


@dataclass(frozen=True, slots=True)
class Topology:
    """`probers` of the validators have their prober run; each validator has voting `power`."""

    chain_id: str
    base_port: int
    model: str
    block_interval_ms: int
    allow_cheats: bool
    restart: bool
    parameters: Mapping[str, int]
    validators: int
    power: int
    probers: int
    relays: int
    model_nodes: tuple[ModelNode, ...]

    @property
    def needs_vllm(self) -> bool:
        return any(node.engine == VLLM for node in self.model_nodes)


def load_topology(path: Path | None = None, engine: str = LLAMACPP) -> Topology:
    """Read the file at `path`, or that of `PACKAGED` for `engine`. Raises `ConfigurationError`
    saying where the file is wrong."""
    try:
        if path is None:
            name = f"the topology {PACKAGED[engine]}"
            text = files("localnet").joinpath(PACKAGED[engine]).read_text()
        else:
            name = str(path)
            text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the topology {path}: {error}") from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name} is not TOML: {error}") from error
    try:
        return parse_topology(content)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def parse_topology(content: Mapping[str, Any]) -> Topology:
    """Raises `ConfigurationError` naming the first entry that is wrong."""
    top = _checked(content, _TOP, "", _OPTIONAL)
    validators = _checked(top["validators"], _VALIDATORS, "validators.")
    relays = _checked(top["relays"], _RELAYS, "relays.")
    for name, value in top["parameters"].items():
        if type(value) is not int:
            raise ConfigurationError(f"parameters.{name} must be an integer")
    model_nodes = tuple(
        _model_node(entry, f"model_nodes[{index}]")
        for index, entry in enumerate(top["model_nodes"])
    )
    _within(validators["count"], 1, MAX_PROCESSES, "validators.count")
    _within(validators["power"], 1, 1 << 40, "validators.power")
    _within(validators["probers"], 0, validators["count"], "validators.probers")
    _within(relays["count"], 0, MAX_PROCESSES, "relays.count")
    _within(len(model_nodes), 0, MAX_PROCESSES, "the number of model_nodes")
    _within(top["block_interval_ms"], 50, 600_000, "block_interval_ms")
    _within(top["base_port"], 1024, 65535, "base_port")
    _refuse_duplicates(node.name for node in model_nodes)
    if not top["allow_cheats"] and any(node.cheat for node in model_nodes):
        raise ConfigurationError("a model node has a cheat, but allow_cheats is false")
    return Topology(
        chain_id=top["chain_id"],
        base_port=top["base_port"],
        model=top["model"],
        block_interval_ms=top["block_interval_ms"],
        allow_cheats=top["allow_cheats"],
        restart=top["restart"],
        parameters=top["parameters"],
        validators=validators["count"],
        power=validators["power"],
        probers=validators["probers"],
        relays=relays["count"],
        model_nodes=model_nodes,
    )


def _model_node(entry: Any, place: str) -> ModelNode:
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{place} must be a table")
    fields = _checked(entry, _MODEL_NODE, f"{place}.", {"cheat": None, "engine": LLAMACPP})
    name, cheat, engine = fields["name"], fields["cheat"], fields["engine"]
    if not name or not all(character.isalnum() or character in "-_" for character in name):
        raise ConfigurationError(f"{place}.name must be made of letters, digits, - and _")
    if name.startswith(("validator-", "prober-", "relay-")):
        raise ConfigurationError(f"{place}.name looks like another role's: {name}")
    if cheat is not None and cheat not in CHEATS:
        raise ConfigurationError(f"{place}.cheat must be one of {', '.join(CHEATS)}")
    if engine not in ENGINES:
        raise ConfigurationError(f"{place}.engine must be one of {', '.join(ENGINES)}")
    return ModelNode(name, cheat, engine)


def _checked(
    content: Mapping[str, Any],
    kinds: Mapping[str, type],
    place: str,
    optional: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    for name in content:
        if name not in kinds:
            raise ConfigurationError(
                f"there is no entry {place}{name}; known are {', '.join(sorted(kinds))}"
            )
    values = dict(optional or {})
    for name, kind in kinds.items():
        if name in content:
            if type(content[name]) is not kind:
                raise ConfigurationError(f"{place}{name} must be of type {kind.__name__}")
            values[name] = content[name]
        elif name not in values:
            raise ConfigurationError(f"{place}{name} is missing")
    return values


def _within(value: int, low: int, high: int, name: str) -> None:
    if not low <= value <= high:
        raise ConfigurationError(f"{name} must be from {low} to {high}, not {value}")


def _refuse_duplicates(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigurationError(f"two model nodes are named {name}")
        seen.add(name)
