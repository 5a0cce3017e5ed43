"""Verifiers: the validators of the chain, each with the key that its prober signs with."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from abci_app.core.codes import Code, Rejected
from abci_app.core.state import Reader, View, load, records, verifier_key
from planetserve.keys import NodeId, node_id


@dataclass(frozen=True, slots=True)
class Verifier:
    """`key` is the prober's Ed25519 key and the verifier's identity; `consensus_key` is the
    Ed25519 key that signs blocks; `power` weighs votes and scores."""

    key: bytes
    name: str
    consensus_key: bytes
    power: int

    @property
    def id(self) -> NodeId:
        return node_id(self.key)


def load_verifier(reader: Reader, identifier: bytes) -> Verifier | None:
    record = load(reader, verifier_key(identifier))
    return None if record is None else Verifier(**record)


def save_verifier(view: View, verifier: Verifier) -> None:
    view.save(verifier_key(verifier.id), asdict(verifier))


def all_verifiers(reader: Reader) -> list[Verifier]:
    """In ascending order of their ids."""
    return [Verifier(**record) for _, record in records(reader, b"verifiers/")]


def require_verifier(reader: Reader, identifier: bytes) -> Verifier:
    verifier = load_verifier(reader, identifier)
    if verifier is None:
        raise Rejected(Code.NOT_A_VERIFIER)
    return verifier
