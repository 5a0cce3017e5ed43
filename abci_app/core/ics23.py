"""Proofs as the bytes of ICS-23's `CommitmentProof`, which other chains' verifiers read.

A record's proof follows `SmtSpec`; that a store's root is in the app hash follows
`TendermintSpec` (both in github.com/cosmos/ics23, field numbers from its proofs.proto).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from abci_app.core.proofs import AbsenceProof, ExistenceProof
from planetserve.light.protobuf import data, integer, message
from planetserve.merkle import INNER, LEAF, bit, list_proof, map_items, sha256

SHA256 = 1
VARINT_PREFIX = 1
EXIST, NONEXIST = 1, 2

SMT_LEAF = integer(1, SHA256) + integer(2, SHA256) + integer(3, SHA256) + data(5, LEAF)
SIMPLE_LEAF = integer(1, SHA256) + integer(3, SHA256) + integer(4, VARINT_PREFIX) + data(5, LEAF)


def record_proof(proof: ExistenceProof | AbsenceProof) -> bytes:
    """A record's place in its store's tree, or its absence from there."""
    if isinstance(proof, ExistenceProof):
        return message(EXIST, _existence(proof))
    absence = data(1, proof.key)
    for field, neighbour in ((2, proof.left), (3, proof.right)):
        if neighbour is not None:
            absence += message(field, _existence(neighbour))
    return message(NONEXIST, absence)


def root_proof(roots: Mapping[str, bytes], store: str) -> bytes:
    """That the app hash of `roots` holds the root of `store`."""
    index = sorted(roots).index(store)
    aunts = list_proof(map_items(roots), index)
    steps = []
    for aunt, right in zip(aunts, _sides(index, len(roots)), strict=True):
        steps.append((INNER + aunt, b"") if right else (INNER, aunt))
    return message(EXIST, _proof(store.encode(), roots[store], SIMPLE_LEAF, steps))


def _sides(index: int, total: int) -> Iterable[int]:
    """On which side of its parent an item's ancestor lies, for each that has a sibling."""
    while total > 1:
        if index ^ 1 < total:
            yield index & 1
        index >>= 1
        total = (total + 1) // 2


def _existence(proof: ExistenceProof) -> bytes:
    key_hash = sha256(proof.key)
    steps = [
        (INNER + sibling, b"") if bit(key_hash, depth) else (INNER, sibling)
        for depth, sibling in enumerate(proof.siblings)
    ]
    return _proof(proof.key, proof.value, SMT_LEAF, reversed(steps))


def _proof(key: bytes, value: bytes, leaf: bytes, steps: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An ExistenceProof; each step from the leaf up is what is hashed before and after it."""
    path: Sequence[bytes] = [
        message(4, integer(1, SHA256) + data(2, prefix) + data(3, suffix))
        for prefix, suffix in steps
    ]
    return data(1, key) + data(2, value) + message(3, leaf) + b"".join(path)
