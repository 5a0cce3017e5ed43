"""Verifiers: the validators of the chain, each with the key that its prober signs with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nacl.bindings import crypto_core_ed25519_is_valid_point

from abci_app.core.codes import Code, Rejected
from abci_app.core.state import Reader, View, records, unpack
from planetserve.fixedpoint import ONE_PPM
from planetserve.keys import NodeId, node_id
from planetserve.statekeys import verifier_key

NEVER_BENCHED = -1
REST_EPOCHS = 32
"""How long a prober rests under a new key: by then the key says nothing about the seeds that its
owner could foresee when it chose it."""
MAX_TOTAL_POWER = ((1 << 63) - 1) // 8
"""CometBFT's own limit."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """`key` is the prober's Ed25519 key and the verifier's identity; `consensus_key` is the
    Ed25519 key that signs blocks; `power` weighs votes and scores. `trust_ppm` falls with faults
    of its prober; up to epoch `benched` it may not commit. `voted_power` is what the verifiers
    gave it, of which penalties may have taken a part. `former` are its ids before rotations."""

    key: bytes
    name: str
    consensus_key: bytes
    power: int
    voted_power: int
    trust_ppm: int = ONE_PPM
    benched: int = NEVER_BENCHED
    former: tuple[bytes, ...] = ()

    @property
    def id(self) -> NodeId:
        return node_id(self.key)

    def to_wire(self) -> dict[str, Any]:
        return {
            "benched": self.benched,
            "consensus_key": self.consensus_key,
            "former": list(self.former),
            "key": self.key,
            "name": self.name,
            "power": self.power,
            "trust_ppm": self.trust_ppm,
            "voted_power": self.voted_power,
        }


def verifier_from(record: Mapping[str, Any]) -> Verifier:
    return Verifier(**{**record, "former": tuple(record["former"])})


def load_verifier(reader: Reader, identifier: bytes) -> Verifier | None:
    value = reader.get(verifier_key(identifier))
    return None if value is None else _decoded(value)


@lru_cache(maxsize=1024)
def _decoded(value: bytes) -> Verifier:
    """Remembered by the bytes themselves: each commitment and reveal asks for its sender."""
    return verifier_from(unpack(value))


def save_verifier(view: View, verifier: Verifier) -> None:
    view.save(verifier_key(verifier.id), verifier.to_wire())


def delete_verifier(view: View, identifier: bytes) -> None:
    view.delete(verifier_key(identifier))


def all_verifiers(reader: Reader) -> list[Verifier]:
    """In ascending order of their ids."""
    return [verifier_from(record) for _, record in records(reader, b"verifiers/")]


def powers_of(verifiers: Iterable[Verifier]) -> tuple[tuple[bytes, int], ...]:
    """Ids and powers in an order that no rotation changes: who rotates must not choose a place."""
    ordered = sorted(verifiers, key=lambda verifier: verifier.consensus_key)
    return tuple((bytes(verifier.id), verifier.power) for verifier in ordered)


def is_usable_key(key: bytes) -> bool:
    """Whether an Ed25519 key is a point of the main subgroup. CometBFT accepts signatures of keys
    of low order, which anyone can make."""
    return bool(crypto_core_ed25519_is_valid_point(key))


def count_verifiers(reader: Reader) -> int:
    return sum(1 for _ in reader.scan(b"verifiers/"))


def require_verifier(reader: Reader, identifier: bytes) -> Verifier:
    verifier = load_verifier(reader, identifier)
    if verifier is None:
        raise Rejected(Code.NOT_A_VERIFIER)
    return verifier
