"""Proposals and votes of the slow model (see `tests.abci_app.model`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from abci_app.core.codes import Code
from planetserve.keys import node_id
from planetserve.scoring.parameters import LIMITS
from tests.abci_app.model_nodes import GENESIS, Node, Participants, Verifier, need


@dataclass
class Proposal:
    """Votes by verifier, as objects: they do not hang on a key."""

    proposer: Verifier
    proposer_id: bytes
    height: int
    closes: int
    change: dict[str, Any]
    votes: list[tuple[Verifier, bytes, bool]]
    outcome: str = "open"
    settled: int = 0


@dataclass
class Voting(Participants):
    pending: dict[str, int] = field(default_factory=dict)
    proposals: list[Proposal] = field(default_factory=list)
    moved: bool = False
    upgrade: tuple[int, int] | None = None
    """Version and height of the one that was voted; tests vote for heights far ahead."""

    def propose(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        proposer = self.require(sender)
        taken = [p for p in self.proposals if p.outcome == "open" and p.proposer_id in proposer.ids]
        need(len(taken) < self.parameters["max_open_proposals"], Code.TOO_MANY_PROPOSALS)
        need(self.possible(data["change"]), Code.BAD_CHANGE)
        closes = self.height + self.parameters["voting_blocks"]
        votes = [(proposer, sender, True)]
        change = dict(data["change"])
        self.proposals.append(Proposal(proposer, sender, self.height, closes, change, votes))

    def vote(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        voter = self.require(sender)
        need(1 <= data["proposal"] <= len(self.proposals), Code.UNKNOWN_PROPOSAL)
        proposal = self.proposals[data["proposal"] - 1]
        closed = proposal.outcome != "open" or self.height > proposal.closes
        need(not closed, Code.PROPOSAL_CLOSED)
        voted = {identifier for _, identifier, _ in proposal.votes}
        need(not voted & set(voter.ids), Code.ALREADY_VOTED)
        proposal.votes.append((voter, sender, data["approve"]))

    def tally(self) -> None:
        total = sum(verifier.power for verifier in self.verifiers)
        shares = {
            identifier: Fraction(verifier.power, total)
            for verifier in self.verifiers
            for identifier in verifier.ids
        }
        self.moved = moved = False
        for proposal in [p for p in self.proposals if p.outcome == "open"]:
            yes = sum(shares.get(voter, 0) for _, voter, approve in proposal.votes if approve)
            no = sum(shares.get(voter, 0) for _, voter, approve in proposal.votes if not approve)
            moves = proposal.change["kind"] in ("join", "leave", "power")
            if yes > Fraction(2, 3):
                if moves and moved:
                    continue
                made = self.possible(proposal.change)
                if made:
                    self.make(proposal.change)
                    moved = moved or moves
                proposal.outcome = "passed" if made else "failed"
            elif no >= Fraction(1, 3):
                proposal.outcome = "refused"
            elif self.height >= proposal.closes:
                proposal.outcome = "expired"
            else:
                continue
            proposal.settled = self.height
            self.moved = moved

    def named(self, identifier: bytes) -> Verifier | None:
        return next((item for item in self.verifiers if identifier in item.ids), None)

    def possible(self, change: Mapping[str, Any]) -> bool:
        if change["kind"] == "parameter":
            name, value = change["name"], change["value"]
            if name not in LIMITS or not LIMITS[name][0] <= value <= LIMITS[name][1]:
                return False
            new: dict[str, int] = {**self.parameters, **self.pending, name: value}
            left = new["epoch_blocks"] - new["commit_blocks"] - 1
            fits = left >= 1 and left >= new["epoch_blocks"] // 8
            return fits and new["untrusted_below_ppm"] <= new["trusted_from_ppm"]
        if change["kind"] == "upgrade":
            return bool(change["version"] == 2)
        if change["kind"] == "cancel":
            return self.upgrade is not None and self.upgrade[0] == change["version"]
        if change["kind"] == "model":
            return change["name"] not in self.models
        if change["kind"] == "expel":
            node = self.present(change["node"])
            return not self.verifier(node) and any(name[0] == node for name in self.credentials)
        if change["kind"] == "join":
            joiner = bytes(node_id(change["key"]))
            taken = {verifier.consensus_key for verifier in self.verifiers}
            held = self.blockers(joiner, change)
            if (
                self.named(joiner)
                or change["consensus_key"] in taken
                or joiner in self.reserved()
                or joiner in self.former_ids()
                or not all(self.nodes[other].waiting for other in held)
            ):
                return False
            return self.may_move(None, change["power"])
        verifier = self.named(change["verifier"])
        return verifier is not None and self.may_move(verifier, change.get("power", 0))

    def present(self, identifier: bytes) -> bytes:
        """The id of the node that has, or had, or will have, this one."""
        coming = {bytes(node_id(key)): old for old, key in self.rotations.items()}
        if identifier in self.nodes:
            return identifier
        return {**coming, **self.former_ids()}.get(identifier, identifier)

    def may_move(self, verifier: Verifier | None, power: int) -> bool:
        others = [item.power for item in self.verifiers if item is not verifier]
        before = verifier.power if verifier else 0
        if not power and not others:
            return False
        if power > before and others:
            share = Fraction(power, power + sum(others))
            if share >= Fraction(1, 3) and power > Fraction(sum(others), len(others)):
                return False
        # Who holds more than 2/3 afterwards must have held more than 1/3 before.
        return before <= 2 * power + sum(others)

    def make(self, change: Mapping[str, Any]) -> None:
        if change["kind"] == "parameter":
            self.pending[change["name"]] = change["value"]
        elif change["kind"] == "join":
            self.join(change)
        elif change["kind"] == "upgrade":
            self.upgrade = (change["version"], change["height"])
        elif change["kind"] == "cancel":
            self.upgrade = None
        elif change["kind"] == "model":
            settings = {name: value for name, value in change.items() if name != "kind"}
            self.models[change["name"]] = {**settings, "registered": self.height, "by": GENESIS}
        elif change["kind"] == "expel":
            node = self.present(change["node"])
            for name in [name for name in self.credentials if name[0] == node]:
                del self.credentials[name]
            self.lapse(node)
        else:
            verifier = self.named(change["verifier"])
            assert verifier is not None
            if change["kind"] == "power":
                verifier.power = verifier.voted = change["power"]
            else:
                self.leave(verifier)

    def leave(self, verifier: Verifier) -> None:
        self.verifiers.remove(verifier)
        node = self.nodes[verifier.ids[-1]]
        remaining = node.roles - {"prober", "verifier"}
        if remaining:
            node.roles = remaining
            self.lapse(node.ids[-1])
        else:
            self.end(node)

    def punish(self, addresses: tuple[bytes, ...]) -> None:
        """Those who signed two things at once leave, or keep half where so much cannot leave."""
        for verifier in sorted(self.verifiers, key=lambda item: item.ids[-1]):
            if hashlib.sha256(verifier.consensus_key).digest()[:20] not in addresses:
                continue
            self.moved = True
            if self.may_move(verifier, 0):
                self.leave(verifier)
            else:
                verifier.power = verifier.voted = max(1, verifier.power // 2)

    def join(self, change: Mapping[str, Any]) -> None:
        key, joiner = change["key"], bytes(node_id(change["key"]))
        name, power = change["name"], change["power"]
        newcomer = Verifier([joiner], key, name, change["consensus_key"], power, power)
        newcomer.benched = self.epoch + 32
        self.verifiers.append(newcomer)
        for other in self.blockers(joiner, change):
            self.forget(other)
        data = {"name": name, "model": "", "operator": "", "endpoints": {}}
        node = self.nodes.get(joiner, Node([joiner], key, data, set(), self.height))
        if node.retired:
            node.data |= {"model": "", "endpoints": {}}
            node.roles = set()
        node.roles = node.roles | {"prober", "verifier"}
        node.data |= {kind: change[kind] for kind in ("onion_key", "transport_key")}
        node.waiting, node.retired = 0, 0
        self.nodes[joiner] = node
