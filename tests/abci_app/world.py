"""A chain in memory: participants with fixed keys, blocks of transactions, no consensus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from abci_app.core.chain import Chain, load_chain
from abci_app.core.context import Window, window_of
from abci_app.core.genesis import genesis
from abci_app.core.state import MapReader, load
from abci_app.core.transactions import next_nonce
from abci_app.core.transition import Block, BlockResult, transition
from planetserve import transactions, vrf
from planetserve.assignment import is_assigned, ticket_input
from planetserve.keys import Identity, identity_from
from planetserve.messages import Usage, sign_reply, state_reply
from planetserve.scoring.judgement import chance_ppm
from planetserve.scoring.reputation import reputation_from
from planetserve.statekeys import reputation_key

CHAIN_ID = "test-chain"
FAR = 1_000


def participant(number: int) -> Identity:
    return identity_from(bytes([number]) * 96)


VERIFIERS = tuple(participant(number) for number in range(1, 5))
MODEL = participant(50)
FOUNDER = participant(51)
"""A model node that genesis vouches for."""
RELAY = participant(60)


def app_state(params: Mapping[str, int] | None = None, powers: tuple[int, ...] = ()) -> bytes:
    entries = [
        {
            "name": f"verifier-{index}",
            "prober_key": identity.public_key.hex(),
            "onion_key": identity.onion_public.hex(),
            "transport_key": identity.transport_public.hex(),
            "consensus_key": consensus_key(index).hex(),
            "power": powers[index] if powers else 10,
        }
        for index, identity in enumerate(VERIFIERS)
    ]
    model = {
        "name": "tiny",
        "weights_digest": "07" * 32,
        "quantization": "F16",
        "context_tokens": 2048,
        "deterministic": True,
    }
    founders = [{"key": FOUNDER.public_key.hex(), "role": "model", "expires": FAR}]
    return json.dumps(
        {
            "params": dict(params or {}),
            "verifiers": entries,
            "models": [model],
            "credentials": founders,
        }
    ).encode()


def registration(identity: Identity, name: str = "node", role: str = "relay") -> dict[str, Any]:
    return transactions.register(
        name=name,
        roles=[role],
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        endpoints={"overlay": "tcp://127.0.0.1:7000"},
        model="tiny" if role == "model" else "",
    )


def conflict(signer: Identity, *texts: str, request: bytes = b"", **other: Any) -> dict[str, Any]:
    """Evidence of a node that answered one greedy request with `texts`."""
    body = request or b'{"model": "tiny", "temperature": 0, "messages": []}'
    statements = [state_reply(CHAIN_ID, body, text, "stop", "tiny", Usage(3, 2)) for text in texts]
    return (
        transactions.evidence(
            accused=signer.id,
            key=signer.public_key,
            kind="conflict",
            request=body,
            statements=[
                {"statement": item.encode(), "signature": sign_reply(signer, item)}
                for item in statements
            ],
        )
        | other
    )


prove = lru_cache(maxsize=4096)(vrf.prove)


def score_data(
    epoch: int,
    node: bytes,
    score_ppm: int,
    salt: bytes = bytes(32),
    proof: bytes = bytes(vrf.PROOF_BYTES),
) -> dict[str, Any]:
    return transactions.reveal(
        epoch=epoch,
        node=node,
        score_ppm=score_ppm,
        samples=3,
        digest=bytes(32),
        salt=salt,
        proof=proof,
    )


def consensus_key(index: int) -> bytes:
    """Of a verifier in the genesis of `app_state`."""
    return participant(200 + index).public_key


class World:
    """`send` queues a transaction, `block` applies what is queued. `misbehaving` are addresses of
    validators that the next block reports."""

    def __init__(
        self, params: Mapping[str, int] | None = None, powers: tuple[int, ...] = ()
    ) -> None:
        writes = genesis(CHAIN_ID, app_state(params, powers))
        self.items = {key: value for key, value in writes.items() if value is not None}
        self.height = 0
        self.misbehaving: tuple[bytes, ...] = ()
        self._queue: list[bytes] = []
        self._queued: dict[bytes, int] = {}

    @property
    def state(self) -> MapReader:
        return MapReader(self.items)

    def sign(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> bytes:
        queued = self._queued.get(identity.id, 0)
        nonce = next_nonce(self.state, identity.id) + queued
        return transactions.sign_transaction(identity, CHAIN_ID, nonce, kind, data)

    def send(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> None:
        self._queue.append(self.sign(identity, kind, data))
        self._queued[identity.id] = self._queued.get(identity.id, 0) + 1

    def block(self, *raw: bytes) -> BlockResult:
        block = Block(self.height + 1, (*self._queue, *raw), self.misbehaving)
        result = transition(self.state, block)
        for key, value in result.writes.items():
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = value
        self.height += 1
        self._queue.clear()
        self._queued.clear()
        self.misbehaving = ()
        return result

    @property
    def chain(self) -> Chain:
        return load_chain(self.state)

    @property
    def window(self) -> Window:
        """Of the running epoch."""
        return window_of(self.chain.epoch, self.chain.parameters)

    @property
    def queued(self) -> tuple[bytes, ...]:
        """What the next block will hold."""
        return tuple(self._queue)

    def waiting(self, identity: Identity) -> int:
        """How many of the queued transactions are the identity's."""
        return self._queued.get(identity.id, 0)

    def assigned(self, identity: Identity, node: bytes) -> bool:
        """Whether the running epoch's ticket assigns the node to the prober."""
        chain = self.chain
        reputation = reputation_from(load(self.state, reputation_key(node)))
        chance = chance_ppm(reputation, chain.parameters.full_below_ppm, chain.epoch.sample_ppm)
        return is_assigned(vrf.output(self.proof(identity)), node, chance)

    def proof(self, identity: Identity) -> bytes:
        """The VRF proof of a prober for the running epoch."""
        epoch = self.chain.epoch
        return prove(identity.seed, ticket_input(CHAIN_ID, epoch.number, epoch.seed))

    def advance_to(self, height: int) -> None:
        """Apply empty blocks until the next block is `height`."""
        while self.height + 1 < height:
            self.block()

    def code_of(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> int:
        """The result code of one transaction in a block of its own."""
        return int(self.block(self.sign(identity, kind, data)).results[0].code)

    def admit(self, identity: Identity, name: str = "node", role: str = "relay") -> None:
        """Register a node and let the first verifier endorse it."""
        self.send(identity, transactions.REGISTER, registration(identity, name, role))
        data = transactions.endorse(node=identity.id, role=role, expires=self.height + FAR)
        self.send(VERIFIERS[0], transactions.ENDORSE, data)
        assert [int(result.code) for result in self.block().results] == [0, 0]

    def commit(self, identity: Identity, node: bytes, score_ppm: int) -> None:
        """Queue the commitment of one score."""
        data = score_data(self.chain.epoch.number, node, score_ppm)
        commitment = transactions.score_commitment(CHAIN_ID, identity.public_key, data)
        self.send(
            identity,
            transactions.COMMIT,
            transactions.commit(epoch=self.chain.epoch.number, node=node, commitment=commitment),
        )

    def reveal(
        self, identity: Identity, node: bytes, score_ppm: int, proof: bytes | None = None
    ) -> None:
        """Queue the reveal of one score."""
        epoch = self.chain.epoch.number
        data = score_data(epoch, node, score_ppm, proof=proof or self.proof(identity))
        self.send(identity, transactions.REVEAL, data)

    def score(self, node: bytes, scores_ppm: Mapping[int, int]) -> None:
        """Commit, reveal and settle the running epoch: `scores_ppm` by the verifier's index."""
        self.score_all({node: scores_ppm})

    def score_all(
        self, scores_ppm: Mapping[bytes, Mapping[int, int]], withheld: frozenset[int] = frozenset()
    ) -> BlockResult:
        """The same for several nodes; verifiers in `withheld` open nothing. Returns the block
        that settles."""
        for node, scores in scores_ppm.items():
            for index, score_ppm in scores.items():
                self.commit(VERIFIERS[index], node, score_ppm)
        assert {int(result.code) for result in self.block().results} <= {0}
        self.advance_to(self.window.commit_end)
        for node, scores in scores_ppm.items():
            for index, score_ppm in scores.items():
                if index not in withheld:
                    self.reveal(VERIFIERS[index], node, score_ppm)
        assert {int(result.code) for result in self.block().results} <= {0}
        self.advance_to(self.window.end - 1)
        return self.block()
