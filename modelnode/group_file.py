"""A group of model nodes that is written down in a TOML file instead of the ledger.

    model = "llama-3.1-8b"

    [[member]]
    name = "node-1"
    node = "6f649f8ba12e..."            # the node's id: 40 hex digits
    transport_key = "0f1c..."           # its CURVE public key: 64 hex digits
    group = "10.0.0.1:27101"            # where the others reach it

Whoever is in the file is trusted by all who use it. The members' replies are signed as elsewhere,
under `FIXED_CHAIN_ID` in place of a chain's name.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelnode.members import Members, PeerAddress
from planetserve.chat import MAX_MODEL_CHARACTERS
from planetserve.errors import ConfigurationError
from planetserve.keys import KEY_BYTES, NODE_ID_BYTES, Identity, NodeId, identity_from
from planetserve.keys import write_identity as write_key_file

FIXED_CHAIN_ID = "planetserve/v1: a group of nodes fixed by a file, on no ledger"
"""Longer than a chain's name may be, so what is signed under it is evidence on no chain."""

MAX_MEMBERS = 256
ADDRESS = re.compile(r"(.+):([0-9]{1,5})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODEL = re.compile(rf'[^"\\\x00-\x1f\x7f]{{1,{MAX_MODEL_CHARACTERS}}}')
FILE_NAME = "group.toml"


@dataclass(frozen=True, slots=True)
class Member:
    """`group` is the HOST:PORT at which the others reach it."""

    name: str
    node: NodeId
    transport_key: bytes
    group: str


@dataclass(frozen=True, slots=True)
class GroupFile:
    model: str
    members: tuple[Member, ...]

    def member(self, identity: Identity) -> Member:
        """The entry of `identity`. Raises `ConfigurationError` when there is none or when it
        names another transport key."""
        for member in self.members:
            if member.node == identity.id:
                if member.transport_key != identity.transport_public:
                    raise ConfigurationError(
                        f"the group file gives {member.name} another transport key than its key "
                        "file holds"
                    )
                return member
        raise ConfigurationError(
            f"the group file has no member with this key, whose id is {identity.id.hex()}"
        )

    def as_members(self) -> Members:
        return Members(
            {member.transport_key: member.node for member in self.members},
            tuple(
                PeerAddress(member.node, f"tcp://{member.group}", member.transport_key)
                for member in self.members
            ),
        )

    def to_toml(self) -> str:
        parts = [f"model = {_quoted(self.model)}\n"]
        for member in self.members:
            parts.append(
                "\n[[member]]\n"
                f"name = {_quoted(member.name)}\n"
                f"node = {_quoted(member.node.hex())}\n"
                f"transport_key = {_quoted(member.transport_key.hex())}\n"
                f"group = {_quoted(member.group)}\n"
            )
        return "".join(parts)


def is_address(text: str) -> bool:
    """Whether `text` is HOST:PORT and so no file's name."""
    found = ADDRESS.fullmatch(text)
    return found is not None and int(found[2]) < 1 << 16


def read_group_file(path: Path) -> GroupFile:
    """Raises `ConfigurationError` for a file that cannot be read or is no group."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the group file {path}: {error.strerror}. --group takes HOST:PORT or "
            "a file that `ps-model make-group` makes"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    return _parse(content, path)


def make_group(
    folder: Path, model: str, count: int, base_port: int, host: str = "127.0.0.1"
) -> list[Path]:
    """Write the group file and `count` key files into `folder` and return the keys' places; the
    members listen at `host`, from `base_port` on. Raises `ConfigurationError` (`KeyFileError`)
    when a file is there already or a setting makes no group."""
    path = folder / FILE_NAME
    if not MODEL.fullmatch(model):
        raise ConfigurationError("--model must be a name without quotes and control characters")
    if not 1 <= count <= MAX_MEMBERS or not 1 <= base_port <= (1 << 16) - 2 * count:
        raise ConfigurationError(
            f"a group has 1 to {MAX_MEMBERS} members, with two ports each of 1 to 65535"
        )
    if path.exists():
        raise ConfigurationError(f"{path} exists; name another --folder")
    keys, members = [], []
    for number in range(1, count + 1):
        identity = identity_from(os.urandom(96))
        key = folder / f"node-{number}.key"
        write_key_file(key, identity)
        keys.append(key)
        address = f"{host}:{base_port + number - 1}"
        members.append(Member(f"node-{number}", identity.id, identity.transport_public, address))
    path.write_text(GroupFile(model, tuple(members)).to_toml())
    return keys


def _parse(content: Mapping[str, Any], path: Path) -> GroupFile:
    model, entries = content.get("model"), content.get("member")
    if not isinstance(model, str) or not MODEL.fullmatch(model):
        raise ConfigurationError(f"{path}: model must be the name of the model")
    if set(content) != {"model", "member"} or not isinstance(entries, list):
        raise ConfigurationError(f"{path}: besides the model there are only [[member]] entries")
    if not 1 <= len(entries) <= MAX_MEMBERS:
        raise ConfigurationError(f"{path}: a group has 1 to {MAX_MEMBERS} members")
    members = tuple(_member(entry, f"{path}: member {at}") for at, entry in enumerate(entries, 1))
    columns = zip(*((m.name, m.node, m.transport_key, m.group) for m in members), strict=True)
    if any(len(set(column)) != len(members) for column in columns):
        raise ConfigurationError(f"{path}: two members share a name, id, key or address")
    return GroupFile(model, members)


def _member(entry: Any, place: str) -> Member:
    if not isinstance(entry, dict) or set(entry) != {"name", "node", "transport_key", "group"}:
        raise ConfigurationError(f"{place} has not exactly name, node, transport_key and group")
    name, group = entry["name"], entry["group"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigurationError(f"{place}: name must be 1 to 64 of letters, digits and ._-")
    if not isinstance(group, str) or not is_address(group):
        raise ConfigurationError(f"{place}: group must be HOST:PORT")
    return Member(
        name,
        NodeId(_hex(entry["node"], NODE_ID_BYTES, f"{place}: node")),
        _hex(entry["transport_key"], KEY_BYTES, f"{place}: transport_key"),
        group,
    )


def _hex(value: Any, size: int, place: str) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise ConfigurationError(f"{place} must be {2 * size} hex digits")
    return data


def _quoted(text: str) -> str:
    """A TOML basic string; what is written here holds no control characters."""
    return json.dumps(text, ensure_ascii=False)
