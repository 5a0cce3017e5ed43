"""Random operations on a chain: what participants of every kind might send, right and wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from abci_app.core.changes import FIELDS
from abci_app.core.credentials import parse_rest
from abci_app.core.governance import open_proposals
from abci_app.core.nodes import all_nodes
from abci_app.core.state import records
from abci_app.core.verifiers import all_verifiers
from planetserve import transactions
from planetserve.keys import Identity
from planetserve.scoring.parameters import LIMITS
from planetserve.transactions import (
    ENDORSE,
    EVIDENCE,
    MODEL,
    PROPOSE,
    REGISTER,
    RETIRE,
    REVOKE,
    ROTATE,
    UPDATE,
    VOTE,
)
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    VERIFIERS,
    World,
    conflict,
    participant,
    registration,
)

EPOCH_BLOCKS, COMMIT_BLOCKS = 8, 4
PARAMS = {
    "epoch_blocks": EPOCH_BLOCKS,
    "commit_blocks": COMMIT_BLOCKS,
    "probers_per_node": 3,
    "full_below_ppm": 400_000,
    "history_epochs": 3,
    "candidate_blocks": 20,
    "voting_blocks": 10,
    "max_candidates": 4,
    "max_endorsements_per_epoch": 6,
}
ROLES = ("model", "relay", "user")
STRANGERS = range(70, 90)
TUNABLE = ("history_epochs", "probers_per_node", "trust_loss_ppm", "max_candidates", "epoch_blocks")


@dataclass(frozen=True, slots=True)
class Pending:
    """A commitment that its prober means to open."""

    prober: Identity
    node: bytes
    score_ppm: int


class Operations:
    """Draws what enters each block of `world`."""

    def __init__(self, random: Random, world: World) -> None:
        self.random = random
        self.world = world
        self.people = [*VERIFIERS, FOUNDER, *map(participant, STRANGERS)]
        self.pending: list[Pending] = []
        self.epoch = -1
        self._kinds: dict[str, Callable[[Identity], dict[str, Any]]] = {
            REGISTER: lambda who: self._announcement(who),
            UPDATE: lambda who: self._announcement(who),
            RETIRE: lambda who: transactions.retire(),
            ROTATE: self._rotation,
            ENDORSE: self._endorsement,
            REVOKE: self._revocation,
            MODEL: self._model,
            EVIDENCE: self._evidence,
            PROPOSE: self._proposal,
            VOTE: self._vote,
        }

    def queue(self) -> None:
        """Queue the transactions of one block."""
        chain = self.world.chain
        if chain.epoch.number != self.epoch:
            self.epoch, self.pending = chain.epoch.number, []
        height = self.world.height + 1
        if height < self.world.window.commit_end:
            self._commit()
        else:
            self._reveal()
        for _ in range(self.random.randrange(5)):
            kind = self.random.choice(tuple(self._kinds))
            by_verifier = kind in (ENDORSE, REVOKE, MODEL, EVIDENCE, PROPOSE, VOTE)
            sender = self._prober() if by_verifier else self.random.choice(self.people)
            if self.random.random() < 0.05:
                sender = self.random.choice(self.people)
            self.world.send(sender, kind, self._kinds[kind](sender))

    def _prober(self) -> Identity:
        by_id = {person.id: person for person in self.people}
        known = [by_id[v.id] for v in all_verifiers(self.world.state) if v.id in by_id]
        return self.random.choice(known or self.people)

    def _node(self) -> bytes:
        return bytes(self.random.choice(self.people).id)

    def _role(self) -> str:
        return self.random.choice(ROLES)

    def _commit(self) -> None:
        nodes = [node for node in all_nodes(self.world.state) if "model" in node.roles]
        for _ in range(self.random.randrange(4) if nodes else 0):
            prober, node = self._prober(), bytes(self.random.choice(nodes).id)
            score = self.random.choice((0, 300_000, 700_000, 800_000, 900_000))
            self.world.commit(prober, node, score)
            if self.random.random() < 0.95:
                self.pending.append(Pending(prober, node, score))

    def _reveal(self) -> None:
        self.random.shuffle(self.pending)
        for _ in range(min(6, len(self.pending))):
            item = self.pending.pop()
            wrong = self.random.random() < 0.05
            self.world.reveal(item.prober, item.node, item.score_ppm + wrong)

    def _announcement(self, who: Identity) -> dict[str, Any]:
        name = f"node-{self.random.randrange(1_000)}"
        return registration(who, name, self._role())

    def _rotation(self, who: Identity) -> dict[str, Any]:
        new = participant(self.random.randrange(100, 256))
        self.people.append(new)
        return transactions.rotate(CHAIN_ID, who.public_key, new)

    def _endorsement(self, who: Identity) -> dict[str, Any]:
        expires = self.world.height + self.random.randrange(1, 60)
        return transactions.endorse(node=self._node(), role=self._role(), expires=expires)

    def _revocation(self, who: Identity) -> dict[str, Any]:
        """Of a credential that the sender gave, if it gave any."""
        held = [rest for rest, _ in records(self.world.state, b"credentials/")]
        own = [(rest[:20], *parse_rest(rest[20:])) for rest in held if rest.endswith(who.id)]
        node, role, _ = self.random.choice(own) if own else (self._node(), self._role(), b"")
        return transactions.revoke(node=node, role=role)

    def _model(self, who: Identity) -> dict[str, Any]:
        return transactions.model(
            name=f"model-{self.random.randrange(40)}",
            weights_digest=self.random.randbytes(32),
            quantization="F16",
            context_tokens=self.random.randrange(4_096),
            deterministic=self.random.random() < 0.5,
        )

    def _evidence(self, who: Identity) -> dict[str, Any]:
        texts = self.random.choice((("one", "another"), ("same", "same")))
        return conflict(self.random.choice(self.people), *texts)

    def _proposal(self, who: Identity) -> dict[str, Any]:
        kind = self.random.choice(("parameter", *FIELDS))
        change: dict[str, Any] = {"kind": kind}
        if kind == "parameter":
            name = self.random.choice(TUNABLE)
            low, high = LIMITS[name]
            change |= {"name": name, "value": self.random.randrange(low, min(high, 12) + 1)}
        if kind == "join":
            joiner = self.random.choice(self.people)
            change |= {
                "key": joiner.public_key,
                "consensus_key": participant(self.random.randrange(100, 256)).public_key,
                "onion_key": joiner.onion_public,
                "transport_key": joiner.transport_public,
                "name": "joiner",
            }
        if kind in ("upgrade", "cancel"):
            change["version"] = self.random.randrange(2, 4)
        if kind == "upgrade":
            change["height"] = 1_000_000
        if kind == "expel":
            change["node"] = self._node()
        if kind == "model":
            change |= self._model(who)
        if kind in ("leave", "power"):
            change["verifier"] = bytes(self._prober().id)
        if kind in ("join", "power"):
            change["power"] = self.random.randrange(1, 20)
        assert set(change) == FIELDS[kind]
        return transactions.propose(change=change)

    def _vote(self, who: Identity) -> dict[str, Any]:
        numbers = [proposal.number for proposal in open_proposals(self.world.state)] or [1]
        approve = self.random.random() < 0.8
        return transactions.vote(proposal=self.random.choice(numbers), approve=approve)
