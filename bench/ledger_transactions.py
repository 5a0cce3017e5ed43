"""The transactions of the ledger benchmarks, signed before anything is measured.

A network of four validators that hold nearly all power, and beside them `LANES` verifiers of
power 1 that run no validator: their keys sign the scores, so that sixteen clients can each send
the transactions of keys of their own, in the order of their nonces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from abci_app.home import FounderEntry, ModelEntry, VerifierEntry, make_genesis, public_key_of
from bench.ledger_network import VALIDATORS, Validator
from planetserve import vrf
from planetserve.assignment import first_seed, ticket_input
from planetserve.keys import Identity, identity_from
from planetserve.transactions import (
    COMMIT,
    REGISTER,
    REVEAL,
    commit,
    register,
    reveal,
    score_commitment,
    sign_transaction,
)

CHAIN_ID = "ledger-bench"
CLIENTS = 16
LANES = 16
MODEL = "bench-model"
VALIDATOR_POWER = 1_000_000


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part, made from a name so that every run has the same keys."""

    validators: tuple[Validator, ...]
    founders: tuple[Identity, ...]
    probers: tuple[Identity, ...]
    nodes: tuple[Identity, ...]


def make_cast(nodes: int, lanes: int = LANES, validators: int = VALIDATORS) -> Cast:
    return Cast(
        tuple(
            Validator(_bytes(f"consensus {number}", 32), _bytes(f"peer {number}", 32))
            for number in range(validators)
        ),
        tuple(_identity(f"founder {number}") for number in range(validators)),
        tuple(_identity(f"prober {number}") for number in range(lanes)),
        tuple(_identity(f"node {number}") for number in range(nodes)),
    )


def make_document(cast: Cast, genesis_time: str, params: Mapping[str, int]) -> str:
    """The genesis document; every prober judges every node unless `params` say otherwise."""
    entries = [
        _verifier(f"validator-{number}", identity, validator.consensus_seed, VALIDATOR_POWER)
        for number, (identity, validator) in enumerate(
            zip(cast.founders, cast.validators, strict=True)
        )
    ]
    entries += [
        _verifier(f"prober-{number}", identity, _bytes(f"absent {number}", 32), 1)
        for number, identity in enumerate(cast.probers)
    ]
    return make_genesis(
        CHAIN_ID,
        genesis_time,
        entries,
        {"probers_per_node": 1_000, "max_commits_per_epoch": 1_000_000, **params},
        models=[ModelEntry(MODEL, bytes(32), "q8_0", 2_048)],
        founders=[FounderEntry(node.public_key, "model") for node in cast.nodes],
    )


def registrations(cast: Cast) -> Iterator[bytes]:
    for number, node in enumerate(cast.nodes):
        data = register(
            name=f"node-{number}",
            roles=["model"],
            onion_key=node.onion_public,
            transport_key=node.transport_public,
            endpoints={"group": "tcp://127.0.0.1:9000", "overlay": "tcp://127.0.0.1:9001"},
            model=MODEL,
        )
        yield sign_transaction(node, CHAIN_ID, 0, REGISTER, data)


def scores(
    cast: Cast,
    prober: Identity,
    *,
    epoch: int = 0,
    seed: bytes = first_seed(CHAIN_ID),
    nonce: int = 0,
) -> tuple[list[bytes], list[bytes]]:
    """A prober's commits and reveals of an epoch with `seed`, one of each a node, in the order of
    its nonces from `nonce`."""
    proof = vrf.prove(prober.seed, ticket_input(CHAIN_ID, epoch, seed))
    commits, reveals = [], []
    for number, node in enumerate(cast.nodes):
        opened = reveal(
            epoch=epoch,
            node=node.id,
            score_ppm=500_000 + number,
            samples=4,
            digest=_bytes(f"transcript {number}", 32),
            salt=_bytes(f"salt {number}", 32),
            proof=proof,
        )
        commitment = score_commitment(CHAIN_ID, prober.public_key, opened)
        closed = commit(epoch=epoch, node=node.id, commitment=commitment)
        first, second = nonce + number, nonce + len(cast.nodes) + number
        commits.append(sign_transaction(prober, CHAIN_ID, first, COMMIT, closed))
        reveals.append(sign_transaction(prober, CHAIN_ID, second, REVEAL, opened))
    return commits, reveals


def lanes_to_queues(lanes: Sequence[Sequence[bytes]], clients: int = CLIENTS) -> list[list[bytes]]:
    """Deal lanes out to clients; a client takes from each of its lanes in turn, so that few of a
    key's transactions wait in a mempool at a time."""
    queues: list[list[bytes]] = []
    for client in range(clients):
        own = lanes[client::clients]
        queues.append([item for together in zip(*own, strict=True) for item in together])
    return queues


def kvstore_pairs(count: int, clients: int = CLIENTS) -> list[list[bytes]]:
    """The kvstore example's own transactions, KEY=VALUE, each once."""
    share = -(-count // clients)
    return [
        [b"key%d-%d=value%d" % (client, number, number) for number in range(share)]
        for client in range(clients)
    ]


def _verifier(name: str, identity: Identity, consensus_seed: bytes, power: int) -> VerifierEntry:
    return VerifierEntry(
        name=name,
        prober_key=identity.public_key,
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        consensus_key=public_key_of(consensus_seed),
        power=power,
    )


def _identity(name: str) -> Identity:
    return identity_from(_bytes(name, 96))


def _bytes(name: str, length: int) -> bytes:
    return hashlib.shake_256(b"ledger bench " + name.encode()).digest(length)
