"""The network file: what a participant must know beforehand to find and recognise a network."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planetserve.errors import ConfigurationError, NetworkNotFound

VARIABLE = "PLANETSERVE_NETWORK"
DEFAULT_PLACE = Path(".localnet") / "network.toml"
TRUST_PERIOD_S = 10 * 24 * 3600
"""How long a header is believed after its time, unless the file says otherwise. Shorter than the
15 days for which validators answer for what they sign (the chain's evidence age)."""
HASH = re.compile(r"[0-9a-fA-F]{64}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Network:
    """A network: its chain, where its RPC servers answer, and what it allows.

    `genesis_hash` is the SHA-256 of the genesis file in hex; `allow_cheats` is true only on
    networks made for experiments, where `ps-model --cheat` may run.

    What a reader believes without proof is one block: the one at `trusted_height` with the hash
    `trusted_hash`, or, without such, the chain's first block (`trusted_height`, or 1) if it has
    the validators that `genesis_validators_hash` names. Both are hex. `trust_period_s` is how long
    after its time a block is believed.
    """

    chain_id: str
    genesis_hash: str
    rpc: tuple[str, ...]
    default_model: str
    allow_cheats: bool = False
    genesis_validators_hash: str = ""
    trusted_height: int = 1
    trusted_hash: str = ""
    trust_period_s: int = TRUST_PERIOD_S

    def to_toml(self) -> str:
        """The file's text."""
        addresses = ", ".join(_quoted(address) for address in self.rpc)
        return (
            f"chain_id = {_quoted(self.chain_id)}\n"
            f"genesis_hash = {_quoted(self.genesis_hash)}\n"
            f"rpc = [{addresses}]\n"
            f"default_model = {_quoted(self.default_model)}\n"
            f"allow_cheats = {str(self.allow_cheats).lower()}\n"
            f"genesis_validators_hash = {_quoted(self.genesis_validators_hash)}\n"
            f"trusted_height = {self.trusted_height}\n"
            f"trusted_hash = {_quoted(self.trusted_hash)}\n"
            f"trust_period_s = {self.trust_period_s}\n"
        )


def load_network(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Network:
    """Read the network file at `path`, else the one that `PLANETSERVE_NETWORK` names, else
    `.localnet/network.toml` in the working directory or above it.

    Raises `NetworkNotFound` saying where it looked, `ConfigurationError` for a malformed file.
    """
    path = find_network(path, environment)
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise NetworkNotFound(f"cannot read the network file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    return _parse(content, path)


def find_network(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """The place of the file that `load_network` reads. Raises `NetworkNotFound`."""
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
    return path


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
    trust: dict[str, Any] = {
        "genesis_validators_hash": "",
        "trusted_height": 1,
        "trusted_hash": "",
        "trust_period_s": TRUST_PERIOD_S,
    }
    for name, default in trust.items():
        trust[name] = content.get(name, default)
        if type(trust[name]) is not type(default):
            raise ConfigurationError(f"{path}: {name} must be of type {type(default).__name__}")
    for name in ("genesis_validators_hash", "trusted_hash"):
        if trust[name] and HASH.fullmatch(trust[name]) is None:
            raise ConfigurationError(f"{path}: {name} must be 64 hex digits")
    for name in ("trusted_height", "trust_period_s"):
        if trust[name] < 1:
            raise ConfigurationError(f"{path}: {name} must be at least 1")
    return Network(
        chain_id=content["chain_id"],
        genesis_hash=content["genesis_hash"],
        rpc=tuple(rpc),
        default_model=content["default_model"],
        allow_cheats=content["allow_cheats"],
        **trust,
    )


def _quoted(text: str) -> str:
    """A TOML basic string, in which control characters are escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)
    return f'"{escaped}"'
