"""Checks of the data of transactions: exact fields, types, lengths and forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from abci_app.core.codes import Code, Rejected
from planetserve.keys import NODE_ID_BYTES
from planetserve.transactions import ROLES, SCORE_SCALE_PPM

MAX_NAME_CHARACTERS = 64
MAX_MODEL_CHARACTERS = 128
MAX_ENDPOINT_CHARACTERS = 262
MAX_INTEGER = (1 << 63) - 1
IPV4_MAPPED = bytes(10) + b"\xff\xff"
ENDPOINT_KINDS = ("group", "overlay")
REGISTRABLE_ROLES = tuple(role for role in ROLES if role not in ("prober", "verifier"))
# An IPv4 address, or an IPv6 address in brackets; then a port. No names: looking up a stranger's
# name would let its servers delay whoever dials.
ENDPOINT = re.compile(
    r"tcp://((?:[0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9A-Fa-f:.]{2,45}\]):([1-9][0-9]{0,4})"
)


def exact(data: Mapping[str, Any], names: frozenset[str]) -> None:
    if set(data) != names:
        raise Rejected(Code.INVALID_FIELD, f"data holds exactly {', '.join(sorted(names))}")


def integer(data: Mapping[str, Any], name: str, low: int = 0, high: int = MAX_INTEGER) -> int:
    value = data[name]
    if type(value) is not int or not low <= value <= high:
        raise Rejected(Code.INVALID_FIELD, f"{name} is an integer from {low} to {high}")
    return value


def octets(data: Mapping[str, Any], name: str, length: int) -> bytes:
    value = data[name]
    if type(value) is not bytes or len(value) != length:
        raise Rejected(Code.INVALID_FIELD, f"{name} is {length} bytes")
    return value


def node(data: Mapping[str, Any]) -> bytes:
    return octets(data, "node", NODE_ID_BYTES)


def score(data: Mapping[str, Any]) -> int:
    return integer(data, "score_ppm", 0, SCORE_SCALE_PPM)


def text(data: Mapping[str, Any], name: str, low: int, high: int) -> str:
    """Printable ASCII without surrounding blanks: what is printable in Unicode differs between
    versions of Python, and look-alikes and marks that reorder text disguise a name."""
    value = data[name]
    good = (
        type(value) is str
        and low <= len(value) <= high
        and all(" " <= character <= "~" for character in value)
        and value == value.strip()
    )
    if not good:
        raise Rejected(Code.INVALID_FIELD, f"{name} is {low} to {high} printable ASCII characters")
    return str(value)


def role(data: Mapping[str, Any]) -> str:
    value = data["role"]
    if value not in REGISTRABLE_ROLES:
        raise Rejected(Code.INVALID_FIELD, f"role is one of {', '.join(REGISTRABLE_ROLES)}")
    return str(value)


def roles(data: Mapping[str, Any]) -> list[str]:
    value = data["roles"]
    good = (
        type(value) is list
        and value
        and all(item in REGISTRABLE_ROLES for item in value)
        and value == sorted(set(value))
    )
    if not good:
        known = ", ".join(REGISTRABLE_ROLES)
        raise Rejected(Code.INVALID_FIELD, f"roles are one or more of {known}; sorted, each once")
    return list(value)


def endpoints(data: Mapping[str, Any]) -> dict[str, str]:
    value = data["endpoints"]
    good = (
        type(value) is dict
        and set(value) <= set(ENDPOINT_KINDS)
        and all(_is_endpoint(item) for item in value.values())
    )
    if not good:
        kinds = " and ".join(ENDPOINT_KINDS)
        raise Rejected(Code.INVALID_FIELD, f"endpoints map {kinds} to tcp://HOST:PORT")
    return dict(value)


def _is_endpoint(value: object) -> bool:
    if type(value) is not str or len(value) > MAX_ENDPOINT_CHARACTERS:
        return False
    match = ENDPOINT.fullmatch(value)
    if match is None or int(match[2]) > 65_535:
        return False
    try:
        address = ip_address(match[1].strip("[]"))
    except ValueError:
        return False
    return _is_dialled(address.packed)


def _is_dialled(packed: bytes) -> bool:
    """Whether these 4 or 16 bytes may be one host's address. Told from the bytes alone: what
    `ipaddress` says of an IPv4 address inside an IPv6 one depends on the release of Python, and
    validators run different ones."""
    if len(packed) == 4:
        return any(packed) and not 224 <= packed[0] <= 239
    is_mapped = packed[:12] == IPV4_MAPPED
    return any(packed) and packed[0] != 0xFF and not is_mapped
