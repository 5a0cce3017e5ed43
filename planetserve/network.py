"""The network file: what a participant must know beforehand to find and recognise a network."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planetserve.errors import ConfigurationError, NetworkNotFound

VARIABLE = "PLANETSERVE_NETWORK"
DEFAULT_PLACE = Path(".localnet") / "network.toml"


@dataclass(frozen=True, slots=True)
class Network:
    """A network: its chain, where its RPC servers answer, and what it allows.

    `genesis_hash` is the SHA-256 of the genesis file in hex; `allow_cheats` is true only on
    networks made for experiments, where `ps-model --cheat` may run.
    """

    chain_id: str
    genesis_hash: str
    rpc: tuple[str, ...]
    default_model: str
    allow_cheats: bool = False

    def to_toml(self) -> str:
        """The file's text."""
        addresses = ", ".join(_quoted(address) for address in self.rpc)
        return (
            f"chain_id = {_quoted(self.chain_id)}\n"
            f"genesis_hash = {_quoted(self.genesis_hash)}\n"
            f"rpc = [{addresses}]\n"
            f"default_model = {_quoted(self.default_model)}\n"
            f"allow_cheats = {str(self.allow_cheats).lower()}\n"
        )


def load_network(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Network:
    """Read the network file at `path`, else the one that `PLANETSERVE_NETWORK` names, else
    `.localnet/network.toml` in the working directory or above it.

    Raises `NetworkNotFound` saying where it looked, `ConfigurationError` for a malformed file.
    """
    environment = os.environ if environment is None else environment
    if path is None and environment.get(VARIABLE):
        path = Path(environment[VARIABLE])
    if path is None:
        path = _search_upwards(Path.cwd())
    if path is None:
        raise NetworkNotFound(
            f"no network file: looked for {DEFAULT_PLACE} in {Path.cwd()} and above it, and "
            f"{VARIABLE} is not set. Start a network of your own with `make localnet`, or name "
            "the file of an existing one with --network FILE"
        )
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise NetworkNotFound(f"cannot read the network file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    return _parse(content, path)


def _search_upwards(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        candidate = folder / DEFAULT_PLACE
        if candidate.is_file():
            return candidate
    return None


def _parse(content: Mapping[str, Any], path: Path) -> Network:
    expected = {
        "chain_id": str,
        "genesis_hash": str,
        "rpc": list,
        "default_model": str,
        "allow_cheats": bool,
    }
    for name, kind in expected.items():
        if type(content.get(name)) is not kind:
            raise ConfigurationError(f"{path}: {name} must be there, of type {kind.__name__}")
    rpc = content["rpc"]
    if not rpc or not all(isinstance(a, str) and a.startswith("http") for a in rpc):
        raise ConfigurationError(f"{path}: rpc must list at least one http:// address")
    return Network(
        content["chain_id"],
        content["genesis_hash"],
        tuple(rpc),
        content["default_model"],
        content["allow_cheats"],
    )


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
