"""Nodes, verifiers and credentials of the slow model (see `tests.abci_app.model`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from abci_app.core.codes import Code
from planetserve.keys import node_id, verify
from planetserve.transactions import ROTATION_DOMAIN
from tests.abci_app.model_settlement import Conduct

MILLION = 1_000_000
NEVER = (1 << 53) - 1
GENESIS = bytes(20)


class Refused(Exception):
    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


def need(condition: object, code: Code) -> None:
    if not condition:
        raise Refused(code)


@dataclass
class Verifier:
    ids: list[bytes]
    key: bytes
    name: str
    consensus_key: bytes
    power: int
    voted: int
    trust: int = MILLION
    benched: int = -1


@dataclass
class Node:
    ids: list[bytes]
    key: bytes
    data: dict[str, Any]
    roles: set[str]
    registered: int
    waiting: int = 0
    retired: int = 0
    ended: list[int] = field(default_factory=list)
    """The epoch that each former id ended with."""

    @property
    def since(self) -> int:
        return self.retired or self.waiting


@dataclass
class Credential:
    issued: int
    expires: int
    revoked: int = 0


@dataclass
class Quota:
    commits: int = 0
    reveals: int = 0
    endorsements: int = 0
    proof: bytes = b""


@dataclass
class Participants:
    """`parameters` are complete; `sample_ppm`, `seed` and `powers`
    (consensus key, id and power) are the running epoch's."""

    chain_id: str
    parameters: dict[str, int]
    verifiers: list[Verifier]
    nodes: dict[bytes, Node]
    models: dict[str, dict[str, Any]]
    credentials: dict[tuple[bytes, str, bytes], Credential]
    seed: bytes
    sample_ppm: int
    powers: list[tuple[bytes, bytes, int]]
    height: int = 0
    epoch: int = 0
    start: int = 1
    nonces: Counter[bytes] = field(default_factory=Counter)
    conduct: dict[bytes, Conduct] = field(default_factory=dict)
    notes: set[tuple[int, bytes]] = field(default_factory=set)
    """When to look whether a node is to be forgotten."""
    rotations: dict[bytes, bytes] = field(default_factory=dict)
    quotas: dict[bytes, Quota] = field(default_factory=dict)

    @property
    def patience(self) -> int:
        return self.parameters["candidate_blocks"]

    def pass_time(self) -> None:
        """What ends with the start of this block, in the order of ids."""
        noted = {identifier for height, identifier in self.notes if height == self.height}
        ended = {name for name, item in self.credentials.items() if item.expires < self.height}
        for identifier in sorted(noted | {name[0] for name in ended}):
            self.notes.discard((self.height, identifier))
            node = self.nodes.get(identifier)
            if identifier in noted and node is not None and node.since:
                due = max(self.height, node.since + self.patience)
                if due > self.height:
                    self.notes.add((due, identifier))
                else:
                    self.forget(identifier)
            for name in [name for name in ended if name[0] == identifier]:
                del self.credentials[name]
            self.lapse(identifier)

    def forget(self, identifier: bytes) -> None:
        del self.nodes[identifier]
        self.conduct.pop(identifier, None)
        self.rotations.pop(identifier, None)

    def lapse(self, identifier: bytes) -> None:
        """A node whose last credential is gone waits for another."""
        node = self.nodes.get(identifier)
        endorsed = any(target == identifier for target, _, _ in self.credentials)
        if node is None or node.since or endorsed or self.verifier(identifier):
            return
        self.wait(identifier, node)

    def wait(self, identifier: bytes, node: Node) -> None:
        node.waiting = self.height
        self.notes.add((self.height + self.patience, identifier))

    def former_ids(self) -> dict[bytes, bytes]:
        """Who goes on from an id that was given up."""
        return {
            former: identifier
            for identifier, node in self.nodes.items()
            for former in node.ids[:-1]
        }

    def holder(self, kind: str, key: bytes) -> bytes | None:
        for identifier, node in self.nodes.items():
            if not node.retired and node.data[kind] == key:
                return identifier
        return None

    def announced(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> Node:
        roles = set(data["roles"])
        if self.verifier(sender):
            roles |= {"prober", "verifier"}
        need("model" not in roles or data["model"] in self.models, Code.UNKNOWN_MODEL)
        return Node([sender], key, dict(data), roles, self.height)

    def hold(self, sender: bytes, node: Node, vouched: bool) -> None:
        others = self.blockers(sender, node.data)
        gives_way = [vouched and self.nodes[other].waiting for other in others]
        need(all(gives_way), Code.KEY_IN_USE)
        for other in others:
            self.forget(other)
        self.nodes[sender] = node

    def blockers(self, sender: bytes, data: Mapping[str, Any]) -> set[bytes]:
        """Other nodes that hold the keys."""
        held = {self.holder(kind, data[kind]) for kind in ("onion_key", "transport_key")}
        return {other for other in held if other not in (None, sender)}

    def follow(self, sender: bytes, node: Node, known: Node | None) -> None:
        if "model" not in node.roles:
            return
        if sender not in self.conduct:
            founder = (sender, "model", GENESIS) in self.credentials
            initial = self.parameters["initial_reputation_ppm"]
            self.conduct[sender] = Conduct(initial, admitted=founder)
        elif known is not None and known.data["model"] != node.data["model"]:
            self.conduct[sender].admitted, self.conduct[sender].streak = False, -1

    def waiting(self) -> int:
        return sum(node.waiting > 0 for node in self.nodes.values())

    def register(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        known = self.nodes.get(sender)
        need(known is None or known.retired, Code.ALREADY_REGISTERED)
        taken = sender in self.reserved() or sender in self.former_ids()
        need(not taken, Code.KEY_IN_USE)
        node = self.announced(sender, key, data)
        if known is not None:
            node.ids, node.ended = known.ids, known.ended
        endorsed = any(
            target == sender and self.live(item)
            for (target, _, _), item in self.credentials.items()
        )
        full = not endorsed and self.waiting() >= self.parameters["max_candidates"]
        need(not full, Code.TOO_MANY_CANDIDATES)
        self.hold(sender, node, endorsed)
        if not endorsed:
            self.wait(sender, node)
        self.follow(sender, node, known)

    def standing(self, sender: bytes) -> Node:
        node = self.nodes.get(sender)
        if node is None:
            raise Refused(Code.UNKNOWN_NODE)
        need(not node.retired, Code.NODE_RETIRED)
        return node

    def update(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        known = self.standing(sender)
        node = self.announced(sender, key, data)
        node.ids, node.ended = known.ids, known.ended
        node.registered, node.waiting = known.registered, known.waiting
        self.hold(sender, node, False)
        self.follow(sender, node, known)

    def retire(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        node = self.standing(sender)
        need(not self.verifier(sender), Code.INVALID_FIELD)
        need(not node.waiting, Code.NO_CREDENTIAL)
        self.end(node)

    def end(self, node: Node) -> None:
        node.retired, node.waiting = self.height, 0
        self.notes.add((self.height + self.patience, node.ids[-1]))
        self.rotations.pop(node.ids[-1], None)
        for name in [name for name in self.credentials if name[0] == node.ids[-1]]:
            del self.credentials[name]

    def rotate(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        node, new = self.standing(sender), bytes(node_id(data["new_key"]))
        reserved = [*self.reserved(), *self.former_ids()]
        used = new in self.nodes or self.nonces[new] or new in reserved
        agreed = verify(
            data["new_key"],
            ROTATION_DOMAIN,
            self.chain_id.encode() + b"\0" + key + data["new_key"],
            data["proof"],
        )
        refused = node.waiting or sender in self.rotations or used or not agreed
        need(not refused, Code.ROTATION_REFUSED)
        self.rotations[sender] = data["new_key"]

    def reserved(self) -> list[bytes]:
        return [bytes(node_id(key)) for key in self.rotations.values()]

    def move(self, old: bytes, key: bytes) -> None:
        node, new = self.nodes[old], bytes(node_id(key))
        if node.since or new in self.nodes:
            return
        del self.nodes[old]
        self.nodes[new] = node
        node.ids, node.key = [*node.ids, new], key
        node.ended = [*node.ended, self.epoch]
        for name in [name for name in self.credentials if name[0] == new]:
            del self.credentials[name]
        if old in self.conduct:
            conduct = self.conduct[new] = self.conduct.pop(old)
            conduct.alarm = max(conduct.alarm, self.parameters["alarm_epochs"])
        for name in [name for name in self.credentials if name[0] == old]:
            self.credentials[new, name[1], name[2]] = self.credentials.pop(name)
        verifier = self.verifier(old)
        if verifier is not None:
            verifier.ids, verifier.key = [*verifier.ids, new], key
            verifier.benched = self.epoch + 32

    def verifier(self, identifier: bytes) -> Verifier | None:
        """By its present id."""
        return next((item for item in self.verifiers if item.ids[-1] == identifier), None)

    def require(self, identifier: bytes) -> Verifier:
        verifier = self.verifier(identifier)
        if verifier is None:
            raise Refused(Code.NOT_A_VERIFIER)
        return verifier

    def quota(self, identifier: bytes) -> Quota:
        return self.quotas.get(identifier, Quota())

    def endorse(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        self.require(sender)
        target, role, expires = data["node"], data["role"], data["expires"]
        node = self.nodes.get(target)
        if node is not None:
            need(not node.retired, Code.NODE_RETIRED)
            need(role in node.roles, Code.ROLE_NOT_ANNOUNCED)
        ahead = expires - self.height
        allowed = 1 <= ahead <= self.parameters["max_credential_blocks"]
        need(allowed, Code.EXPIRY_OUT_OF_RANGE)
        quota = self.quota(sender)
        limit = self.parameters["max_endorsements_per_epoch"]
        need(quota.endorsements < limit, Code.ENDORSEMENT_LIMIT)
        given = [name for name in self.credentials if name[2] in self.require(sender).ids]
        share = max(1, self.parameters["max_credentials"] // len(self.verifiers))
        renewed = (target, role, sender) in self.credentials
        need(renewed or len(given) < share, Code.ENDORSEMENT_LIMIT)
        self.quotas[sender] = quota
        quota.endorsements += 1
        self.credentials[target, role, sender] = Credential(self.height, expires)
        if node is not None:
            node.waiting = 0

    def revoke(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        *former, present = self.require(sender).ids
        for endorser in (present, *former):
            held = self.credentials.get((data["node"], data["role"], endorser))
            if held is not None and self.live(held):
                held.revoked = self.height
                held.expires = min(held.expires, self.height + self.patience)
                return
        raise Refused(Code.NO_CREDENTIAL)

    def live(self, credential: Credential) -> bool:
        return not credential.revoked and self.height <= credential.expires

    def model(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        verifier = self.require(sender)
        need(not data["deterministic"], Code.INVALID_FIELD)
        need(data["name"] not in self.models, Code.MODEL_EXISTS)
        own = [item for item in self.models.values() if item["by"] in verifier.ids]
        need(len(own) < self.parameters["max_models_per_verifier"], Code.MODEL_LIMIT)
        self.models[data["name"]] = {**data, "registered": self.height, "by": sender}
