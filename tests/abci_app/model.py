"""The ledger's rules once more, slow and plain, in fractions: what `abci_app.core` is tested with.

Nothing is kept up to date in place: holders of keys, candidates, routes and open proposals are
found anew from what has happened. `records` is the whole state as the ledger should store it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from math import floor
from typing import Any

from abci_app.core.codes import Code
from planetserve import vrf
from planetserve.encoding import encode
from planetserve.keys import node_id
from planetserve.messages import decode_statement
from planetserve.transactions import Transaction, score_commitment
from tests.abci_app.model_nodes import (
    GENESIS,
    MILLION,
    NEVER,
    Credential,
    Node,
    Refused,
    Verifier,
    need,
)
from tests.abci_app.model_settlement import Conduct, Score, conducted, held_against, settled
from tests.abci_app.model_votes import Voting


@dataclass
class Model(Voting):
    commits: dict[tuple[bytes, bytes], tuple[bytes, int]] = field(default_factory=dict)
    reveals: dict[tuple[bytes, bytes], list[Any]] = field(default_factory=dict)
    convicted: set[tuple[bytes, bytes]] = field(default_factory=set)
    results: dict[tuple[int, bytes], dict[str, Any]] = field(default_factory=dict)
    output: bytes = b""
    kept: list[int] = field(default_factory=list)

    def block(
        self, transactions: list[Transaction], misbehaving: tuple[bytes, ...] = ()
    ) -> list[Code]:
        self.height += 1
        self.pass_time()
        codes = [self.apply(transaction) for transaction in transactions]
        self.tally()
        self.punish(misbehaving)
        if self.height == self.start + self.parameters["epoch_blocks"] - 1:
            self.settle()
            for old in sorted(self.rotations):
                self.move(old, self.rotations.pop(old))
            self.begin_epoch()
        return codes

    def apply(self, sent: Transaction) -> Code:
        sender = bytes(node_id(sent.key))
        try:
            need(sent.nonce == self.nonces[sender], Code.BAD_NONCE)
            getattr(self, sent.kind)(sender, sent.key, sent.data)
        except Refused as refusal:
            return refusal.code
        self.nonces[sender] += 1
        return Code.OK

    def commit(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        verifier, node = self.require(sender), data["node"]
        need(data["epoch"] == self.epoch, Code.WRONG_EPOCH)
        open_ = self.height < self.start + self.parameters["commit_blocks"]
        need(open_, Code.WINDOW_CLOSED)
        need(verifier.benched < self.epoch, Code.BENCHED)
        need(node in self.nodes, Code.UNKNOWN_NODE)
        need(node in self.conduct, Code.ROLE_NOT_ANNOUNCED)
        quota = self.quota(sender)
        need(quota.commits < self.parameters["max_commits_per_epoch"], Code.COMMIT_LIMIT)
        need((sender, node) not in self.commits, Code.ALREADY_COMMITTED)
        self.quotas[sender] = quota
        quota.commits += 1
        self.commits[sender, node] = (data["commitment"], self.height)

    def reveal(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        self.require(sender)
        node = data["node"]
        need(data["epoch"] == self.epoch, Code.WRONG_EPOCH)
        first = self.start + self.parameters["commit_blocks"]
        last = self.start + self.parameters["epoch_blocks"] - 2
        need(first <= self.height <= last, Code.WINDOW_CLOSED)
        committed, _ = self.commits.get((sender, node), (b"", 0))
        opened = score_commitment(self.chain_id, key, data)
        need(committed == opened, Code.NO_COMMITMENT)
        need((node, sender) not in self.reveals, Code.ALREADY_REVEALED)
        quota = self.quota(sender)
        need(quota.proof in (b"", data["proof"]), Code.BAD_VRF_PROOF)
        alpha = {"chain_id": self.chain_id, "epoch": self.epoch, "seed": self.seed}
        try:
            output = vrf.verify(key, b"planetserve/ticket/v1\0" + encode(alpha), data["proof"])
        except vrf.VrfError:
            raise Refused(Code.BAD_VRF_PROOF) from None
        digest = hashlib.sha256(b"planetserve/draw/v1\0" + output + node).digest()
        draw = Fraction(int.from_bytes(digest[:8], "big"), 1 << 64)
        conduct = self.conduct.get(node)
        need(conduct is None or draw < self.chance(conduct), Code.NOT_ASSIGNED)
        quota.reveals += 1
        quota.proof = data["proof"]
        self.reveals[node, sender] = [data["score_ppm"], data["samples"], data["digest"]]

    def chance(self, conduct: Conduct) -> Fraction:
        good = conduct.admitted and conduct.trusted and not conduct.alarm
        if good and conduct.ppm >= self.parameters["full_below_ppm"]:
            return Fraction(self.sample_ppm, MILLION)
        return Fraction(1)

    def evidence(self, sender: bytes, key: bytes, data: Mapping[str, Any]) -> None:
        self.require(sender)
        accused = data["accused"]
        need(accused in self.nodes and accused in self.conduct, Code.UNKNOWN_NODE)
        conduct, signer = self.conduct[accused], bytes(node_id(data["key"]))
        *former, present = self.nodes[accused].ids
        ended = zip(former, self.nodes[accused].ended, strict=True)
        signers = [present, *(each for each, epoch in ended if self.epoch <= epoch + 8)]
        need(signer in signers, Code.EVIDENCE_INVALID)
        case = (signer, hashlib.sha256(data["request"]).digest())
        nothing_left = not conduct.ppm and not conduct.trusted and conduct.streak <= 0
        need(case not in self.convicted and not nothing_left, Code.EVIDENCE_KNOWN)
        texts = {decode_statement(item["statement"]).text for item in data["statements"]}
        need(len(texts) == 2, Code.EVIDENCE_INVALID)
        self.convicted.add(case)
        conduct.ppm, conduct.trusted, conduct.streak = 0, False, 0
        conduct.cusum = max(conduct.cusum, self.parameters["cusum_limit_ppm"])
        conduct.alarm = self.parameters["alarm_epochs"]
        conduct.convictions += 1

    def settle(self) -> None:
        powers = {identifier: power for _, identifier, power in self.powers}
        total = sum(powers.values())
        compared: Counter[bytes] = Counter()
        far: Counter[bytes] = Counter()
        for node in sorted({node for node, _ in self.reveals} & set(self.conduct)):
            scores = [
                Score(prober, powers.get(prober, 0), *entry)
                for (scored, prober), entry in sorted(self.reveals.items())
                if scored == node
            ]
            before = self.conduct[node]
            chance = self.chance(before)
            result, after = settled(before, scores, total, chance, self.parameters)
            self.conduct[node] = after
            after.last = (node, self.epoch)
            self.results[self.epoch, node] = {
                **result,
                "after": after.record(),
                "before": before.record(),
                "epoch": self.epoch,
                "height": self.height,
                "node": node,
            }
            if chance == 1:
                limit = self.parameters["distance_ppm"]
                for prober, off in held_against(before, scores, result["credit_ppm"], limit):
                    compared[prober] += 1
                    far[prober] += off
        self.output = self.contribution()
        self.penalise(compared, far)

    def penalise(self, compared: Counter[bytes], far: Counter[bytes]) -> None:
        total, moved = sum(verifier.power for verifier in self.verifiers), 0
        for verifier in sorted(self.verifiers, key=lambda item: item.ids[-1]):
            identifier = verifier.ids[-1]
            quota = self.quota(identifier)
            if not quota.commits:
                continue
            withheld = quota.commits > quota.reveals
            off = compared[identifier] >= 3 and far[identifier] > compared[identifier] / 2
            room = total // 10 - moved if moved else total
            moved += conducted(
                verifier,
                withheld,
                off,
                self.epoch,
                self.parameters,
                0 if self.moved else room,
            )

    def contribution(self) -> bytes:
        """The VRF output of the prober that is drawn, by power, from those that revealed."""
        left = list(self.powers)
        for draw in count():
            if not left:
                return b""
            drawn = hashlib.sha256(
                b"planetserve/contributor/v1\0" + self.seed + draw.to_bytes(2, "big")
            ).digest()
            tickets = [item for item in left for _ in range(item[2])]
            chosen = tickets[int.from_bytes(drawn, "big") % len(tickets)]
            proof = self.quota(chosen[1]).proof
            if proof:
                return vrf.output(proof)
            left.remove(chosen)
        raise AssertionError

    def begin_epoch(self) -> None:
        mixed = encode({"output": self.output, "seed": self.seed})
        self.seed = hashlib.sha256(b"planetserve/seed/v1\0" + mixed).digest()
        self.kept.append(self.epoch)
        oldest = self.epoch - self.parameters["history_epochs"]
        dropped = [epoch for epoch in self.kept[:4] if epoch <= oldest]
        self.kept = [epoch for epoch in self.kept if epoch not in dropped]
        self.results = {key: item for key, item in self.results.items() if key[0] not in dropped}
        self.epoch, self.start = self.epoch + 1, self.height + 1
        self.parameters = {**self.parameters, **self.pending}
        self.pending = {}
        wanted = Fraction(self.parameters["probers_per_node"], len(self.verifiers))
        self.sample_ppm = floor(min(wanted, Fraction(1)) * MILLION)
        self.powers = powers_of(self.verifiers)
        self.commits.clear()
        self.reveals.clear()
        self.quotas.clear()

    def records(self) -> dict[bytes, Any]:
        """The state by its keys, decoded; of `chain/`, `epochs/` and `evidence/` what matters."""
        found: dict[bytes, Any] = {
            b"accounts/" + account: {"nonce": nonce}
            for account, nonce in self.nonces.items()
            if nonce
        }
        for verifier in self.verifiers:
            *former, present = verifier.ids
            found[b"verifiers/" + present] = {
                "benched": verifier.benched,
                "consensus_key": verifier.consensus_key,
                "former": former,
                "key": verifier.key,
                "name": verifier.name,
                "power": verifier.power,
                "trust_ppm": verifier.trust,
                "voted_power": verifier.voted,
            }
        for identifier, node in self.nodes.items():
            found[b"nodes/" + identifier] = self.announcement(node)
            store = b"waiting/" if node.since else b"routes/"
            found[store + identifier] = self.route(identifier, node)
            for kind in ("onion_key", "transport_key"):
                if not node.retired:
                    found[b"keys/" + kind[:1].encode() + node.data[kind]] = identifier
        for old, key in self.rotations.items():
            found[b"rotations/" + old] = {"new_key": key, "successor": node_id(key)}
            found[b"keys/i" + node_id(key)] = old
        for given_up, successor in self.former_ids().items():
            found[b"keys/i" + given_up] = successor
        for identifier, conduct in self.conduct.items():
            found[b"reputation/" + identifier] = conduct.record()
        for (target, role, endorser), credential in self.credentials.items():
            key = b"credentials/" + target + role.encode() + b"/" + endorser
            found[key] = vars(credential)
            end = (credential.expires + 1).to_bytes(8, "big")
            found[b"expiries/" + end + key.removeprefix(b"credentials/")] = None
        for endorser, given in Counter(name[2] for name in self.credentials).items():
            found[b"endorsers/" + endorser] = given
        for height, identifier in self.notes:
            found[b"expiries/" + height.to_bytes(8, "big") + identifier] = None
        for (prober, target), (commitment, height) in self.commits.items():
            found[b"commits/" + prober + target] = {"commitment": commitment, "height": height}
        for (target, prober), entry in self.reveals.items():
            found[b"reveals/" + target + prober] = entry
        for identifier, quota in self.quotas.items():
            found[b"quotas/" + identifier] = vars(quota)
        for (epoch, target), result in self.results.items():
            found[b"results/" + epoch.to_bytes(8, "big") + target] = result
        for name, model in self.models.items():
            found[b"models/" + name.encode()] = model
        for number, proposal in enumerate(self.proposals, start=1):
            found[b"proposals/" + number.to_bytes(8, "big")] = {
                "number": number,
                "proposer": proposal.proposer_id,
                "height": proposal.height,
                "closes": proposal.closes,
                "change": proposal.change,
                "votes": {voter.hex(): approve for _, voter, approve in proposal.votes},
                "outcome": proposal.outcome,
                "settled": proposal.settled,
            }
        return found

    def announcement(self, node: Node) -> dict[str, Any]:
        return {
            "key": node.key,
            "name": node.data["name"],
            "roles": sorted(node.roles),
            "onion_key": node.data["onion_key"],
            "transport_key": node.data["transport_key"],
            "endpoints": node.data["endpoints"],
            "model": node.data["model"],
            "operator": node.data["operator"],
            "registered": node.registered,
            "waiting": node.waiting,
            "retired": node.retired,
            "former": [list(each) for each in zip(node.ids[:-1], node.ended, strict=True)],
        }

    def route(self, identifier: bytes, node: Node) -> dict[str, Any]:
        """What users should see of a node after this block."""
        shown = self.announcement(node)
        for hidden in ("waiting", "retired", "former"):
            del shown[hidden]
        admissions = [self.admission(identifier, role) for role in node.roles]
        conduct = self.conduct[identifier] if "model" in node.roles else None
        if node.retired:
            status = "retired"
        elif any(revoked for _, _, revoked in admissions):
            status = "revoked"
        elif not all(live for _, live, _ in admissions):
            status = "candidate"
        else:
            status = "trusted" if conduct is None else conduct.status
        return {
            **shown,
            "credential_expires": min(expires for expires, _, _ in admissions),
            "reputation_ppm": None if conduct is None else conduct.ppm,
            "status": status,
        }

    def admission(self, identifier: bytes, role: str) -> tuple[int, bool, bool]:
        """Until when a role is admitted, whether it is now, and whether it was revoked."""
        if self.verifier(identifier) and role in ("prober", "verifier"):
            return NEVER, True, False
        held = [
            credential
            for (node, of, _), credential in self.credentials.items()
            if (node, of) == (identifier, role)
        ]
        live = any(self.live(credential) for credential in held)
        expires = max((item.expires for item in held if not item.revoked), default=0)
        return expires, live, not live and any(item.revoked for item in held)


def founded(chain_id: str, document: Mapping[str, Any], parameters: Mapping[str, int]) -> Model:
    """The model of a chain with the genesis `document`; `parameters` are all of them."""
    verifiers, nodes = [], {}
    for entry in document["verifiers"]:
        keys = {name: bytes.fromhex(entry[name]) for name in entry if name.endswith("_key")}
        key = keys["prober_key"]
        identifier = bytes(node_id(key))
        verifiers.append(
            Verifier(
                [identifier],
                key,
                entry["name"],
                keys["consensus_key"],
                entry["power"],
                entry["power"],
            )
        )
        data = {"name": entry["name"], "model": "", "operator": "", "endpoints": {}, **keys}
        nodes[identifier] = Node([identifier], key, data, {"prober", "verifier"}, 0)
    credentials = {
        (bytes(node_id(bytes.fromhex(entry["key"]))), entry["role"], GENESIS): Credential(
            0, entry["expires"]
        )
        for entry in document["credentials"]
    }
    models = {
        entry["name"]: {
            **entry,
            "weights_digest": bytes.fromhex(entry["weights_digest"]),
            "registered": 0,
            "by": GENESIS,
        }
        for entry in document["models"]
    }
    seed = hashlib.sha256(b"planetserve/seed/v1\0" + encode({"chain_id": chain_id})).digest()
    share = min(Fraction(1), Fraction(parameters["probers_per_node"], len(verifiers)))
    return Model(
        chain_id,
        dict(parameters),
        verifiers,
        nodes,
        models,
        credentials,
        seed,
        floor(share * MILLION),
        powers_of(verifiers),
    )


def powers_of(verifiers: Iterable[Verifier]) -> list[tuple[bytes, bytes, int]]:
    return sorted((item.consensus_key, item.ids[-1], item.power) for item in verifiers)
