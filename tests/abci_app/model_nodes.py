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
    trust: int = MILLION
    benched: int = -1


@dataclass
class Node:
    ids: list[bytes]
    key: bytes
    data: dict[str, Any]
    roles: set[str]
    registered: int
    candidate: bool = False
    retired: int = 0


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
    """`parameters` are complete; `sample_ppm` and `seed` are the running epoch's."""

    chain_id: str
    parameters: dict[str, int]
    verifiers: list[Verifier]
    nodes: dict[bytes, Node]
    models: dict[str, dict[str, Any]]
    credentials: dict[tuple[bytes, str, bytes], Credential]
    seed: bytes
    sample_ppm: int
    height: int = 0
    epoch: int = 0
    start: int = 1
    nonces: Counter[bytes] = field(default_factory=Counter)
    conduct: dict[bytes, Conduct] = field(default_factory=dict)
    expiries: set[tuple[int, bytes]] = field(default_factory=set)
    rotations: dict[bytes, bytes] = field(default_factory=dict)
    quotas: dict[bytes, Quota] = field(default_factory=dict)

    def forget(self) -> None:
        for height, identifier in sorted(self.expiries):
            if height != self.height:
                continue
            self.expiries.discard((height, identifier))
            node = self.nodes.get(identifier)
            if node is None or not node.candidate:
                continue
            end = node.registered + self.parameters["candidate_blocks"]
            if self.height >= end:
                del self.nodes[identifier]
                self.conduct.pop(identifier, None)
            else:
                self.expiries.add((end, identifier))

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

    def hold(self, sender: bytes, node: Node) -> None:
        for kind in ("onion_key", "transport_key"):
            need(self.holder(kind, node.data[kind]) in (None, sender), Code.KEY_IN_USE)
        self.nodes[sender] = node
        if "model" in node.roles and sender not in self.conduct:
            founder = (sender, "model", GENESIS) in self.credentials
            initial = self.parameters["initial_reputation_ppm"]
            self.conduct[sender] = Conduct(initial, admitted=founder)

    def waiting(self) -> int:
        return sum(node.candidate for node in self.nodes.values())

    def register(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        former = self.nodes.get(sender)
        need(former is None or former.retired, Code.ALREADY_REGISTERED)
        node = self.announced(sender, key, data)
        if former is not None:
            node.ids = former.ids
        node.candidate = not any(target == sender for target, _, _ in self.credentials)
        full = node.candidate and self.waiting() >= self.parameters["max_candidates"]
        need(not full, Code.TOO_MANY_CANDIDATES)
        self.hold(sender, node)
        if node.candidate:
            self.expiries.add((self.height + self.parameters["candidate_blocks"], sender))

    def standing(self, sender: bytes) -> Node:
        node = self.nodes.get(sender)
        if node is None:
            raise Refused(Code.UNKNOWN_NODE)
        need(not node.retired, Code.NODE_RETIRED)
        return node

    def update(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        former = self.standing(sender)
        node = self.announced(sender, key, data)
        node.ids, node.registered, node.candidate = former.ids, former.registered, former.candidate
        self.hold(sender, node)

    def retire(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        node = self.standing(sender)
        need(not self.verifier(sender), Code.INVALID_FIELD)
        need(not node.candidate, Code.NO_CREDENTIAL)
        self.end(node)

    def end(self, node: Node) -> None:
        node.retired = self.height
        for name in [name for name in self.credentials if name[0] == node.ids[-1]]:
            del self.credentials[name]

    def rotate(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        node, new = self.standing(sender), bytes(node_id(data["new_key"]))
        used = new in self.nodes or self.nonces[new] or new in self.reserved()
        endorsed = any(target == new for target, _, _ in self.credentials)
        agreed = verify(
            data["new_key"],
            ROTATION_DOMAIN,
            self.chain_id.encode() + b"\0" + key + data["new_key"],
            data["proof"],
        )
        refused = node.candidate or sender in self.rotations or used or endorsed or not agreed
        need(not refused, Code.ROTATION_REFUSED)
        self.rotations[sender] = data["new_key"]

    def reserved(self) -> list[bytes]:
        return [bytes(node_id(key)) for key in self.rotations.values()]

    def move(self, old: bytes, key: bytes) -> None:
        node, new = self.nodes[old], bytes(node_id(key))
        if node.retired or new in self.nodes:
            return
        del self.nodes[old]
        self.nodes[new] = node
        node.ids, node.key = [*node.ids, new], key
        if old in self.conduct:
            conduct = self.conduct[new] = self.conduct.pop(old)
            conduct.alarm = max(conduct.alarm, self.parameters["alarm_epochs"])
        for name in [name for name in self.credentials if name[0] == old]:
            credential = self.credentials[new, name[1], name[2]] = self.credentials.pop(name)
            if credential.expires >= self.height:
                self.expiries.add((credential.expires + 1, new))
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
        self.quotas[sender] = quota
        quota.endorsements += 1
        self.credentials[target, role, sender] = Credential(self.height, expires)
        self.expiries.add((expires + 1, target))
        if node is not None:
            node.candidate = False

    def revoke(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        *former, present = self.require(sender).ids
        verifiers = {identifier for verifier in self.verifiers for identifier in verifier.ids}
        held = {
            endorser: credential
            for (node, role, endorser), credential in self.credentials.items()
            if (node, role) == (data["node"], data["role"]) and self.live(credential)
        }
        orphaned = sorted(set(held) - verifiers - {GENESIS})
        for endorser in (present, *former, *orphaned):
            if endorser in held:
                held[endorser].revoked = self.height
                return
        raise Refused(Code.NO_CREDENTIAL)

    def live(self, credential: Credential) -> bool:
        return not credential.revoked and self.height <= credential.expires

    def model(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        verifier = self.require(sender)
        need(data["name"] not in self.models, Code.MODEL_EXISTS)
        own = [item for item in self.models.values() if item["by"] in verifier.ids]
        need(len(own) < self.parameters["max_models_per_verifier"], Code.MODEL_LIMIT)
        self.models[data["name"]] = {**data, "registered": self.height, "by": sender}
