"""The whole state machine against a slow model in fractions, block by block."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from abci_app.core.apphash import advance, app_hash
from abci_app.core.state import load
from abci_app.core.verifiers import all_verifiers
from planetserve import transactions
from planetserve.encoding import decode
from planetserve.keys import Identity, node_id
from planetserve.merkle import root_of
from planetserve.records import NodeRecord
from planetserve.scoring.parameters import Parameters
from planetserve.statekeys import (
    CANDIDATES_KEY,
    PENDING_KEY,
    STORES,
    UPGRADE_KEY,
    reputation_key,
    store_of,
)
from planetserve.transactions import decode_transaction
from tests.abci_app import invariants
from tests.abci_app.model import founded
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    VERIFIERS,
    World,
    app_state,
    conflict,
    participant,
    registration,
    score_data,
)

POWERS = (40, 30, 20, 10)
PARAMS = {
    "epoch_blocks": 5,
    "commit_blocks": 2,
    "voting_blocks": 6,
    "max_open_proposals": 2,
    "probers_per_node": 2,
    "window_epochs": 3,
    "cusum_limit_ppm": 600_000,
    "probation_epochs": 2,
    "alarm_epochs": 2,
    "history_epochs": 3,
    "max_commits_per_epoch": 2,
    "max_endorsements_per_epoch": 2,
    "max_credential_blocks": 60,
    "candidate_blocks": 9,
    "max_candidates": 2,
    "max_models_per_verifier": 1,
    "trust_loss_ppm": 400_000,
}
VOTED = [
    ("distance_ppm", 100_000),
    ("probers_per_node", 1),
    ("probers_per_node", 3),
    ("full_below_ppm", 400_000),
    ("candidate_blocks", 14),
    ("candidate_blocks", 4),
    ("epoch_blocks", 7),
    ("commit_blocks", 4),
    ("max_candidates", 1),
    ("trust_loss_ppm", 1_000_000),
    ("abnormal_below_ppm", 600_000),
    ("abnormal_below_ppm", 1_000_001),
    ("window_size", 1),
]
SCORES = st.sampled_from([0, 300_000, 399_999, 400_000, 500_000, 700_000, 900_000, 1_000_000])
SOMEONE = st.integers(0, 1_000)
MODEL_SETTINGS = {"weights_digest": bytes(32), "quantization": "Q8_0", "context_tokens": 16}
ROLES = st.sampled_from([["model"], ["relay"], ["model", "relay"], ["user"]])


class LedgerMachine(RuleBasedStateMachine):
    """Rules queue transactions, of which many are refused; blocks apply what is queued."""

    def __init__(self) -> None:
        super().__init__()
        document = app_state(PARAMS, POWERS)
        self.world = World(PARAMS, POWERS)
        parameters = Parameters(**PARAMS).to_wire()
        self.model = founded(CHAIN_ID, json.loads(document), parameters)
        self.everyone = [*VERIFIERS, FOUNDER, *map(participant, range(100, 103))]
        self.fresh = map(participant, count(110))
        self.scores: dict[tuple[bytes, bytes], int] = {}
        self.powers = {v.consensus_key: v.power for v in all_verifiers(self.world.state)}
        self.nodes: dict[tuple[str, bytes], bytes] = {}
        self.roots: dict[str, bytes] = {}
        self.patience = 0
        self.grow(dict(self.world.items), ())

    def pick(self, number: int) -> Identity:
        return self.everyone[number % len(self.everyone)]

    def owner(self, identifier: bytes) -> Identity:
        return next(each for each in self.everyone if each.id == identifier)

    def verifier(self, number: int) -> Identity:
        """One of the verifiers, whatever key it has now."""
        ids = sorted(verifier.ids[-1] for verifier in self.model.verifiers)
        return self.owner(ids[number % len(ids)])

    def participant(self, number: int) -> Identity:
        """Mostly one that is a node and no verifier."""
        verifiers = {verifier.ids[-1] for verifier in self.model.verifiers}
        ids = sorted(self.model.nodes.keys() - verifiers)
        return self.owner(ids[number % len(ids)]) if ids and number % 5 else self.pick(number)

    def send(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> None:
        """Queue a transaction. Behind one of the same key it fails whenever that one does, so
        that comes in every third block only."""
        if self.world.waiting(identity) and self.world.height % 3:
            self.block()
        self.world.send(identity, kind, data)

    # Rules

    @initialize(found=st.booleans())
    def begin(self, found: bool) -> None:
        if found:
            self.send(FOUNDER, "register", registration(FOUNDER, role="model"))
            self.block()

    @rule(who=SOMEONE, roles=ROLES, new=st.booleans(), other=SOMEONE, shares=st.booleans())
    def announce(self, who: int, roles: list[str], new: bool, other: int, shares: bool) -> None:
        identity = self.pick(who)
        name = "other" if other % 7 == 0 else "tiny"
        data = {**registration(identity), "roles": roles}
        data["model"] = name if "model" in roles else ""
        if shares and other % 3 == 0:
            data["transport_key"] = self.pick(other).transport_public
        self.send(identity, "register" if new else "update", data)

    @rule(who=SOMEONE, endorser=SOMEONE, role=st.sampled_from(["model", "relay"]))
    def arrive(self, who: int, endorser: int, role: str) -> None:
        identity = self.pick(who)
        self.send(identity, "register", registration(identity, role=role))
        expires = self.world.height + 50
        data = transactions.endorse(node=identity.id, role=role, expires=expires)
        self.send(self.verifier(endorser), "endorse", data)

    @rule(who=SOMEONE)
    def retire(self, who: int) -> None:
        self.send(self.participant(who), "retire", transactions.retire())

    @rule(role=st.sampled_from(["model", "relay"]))
    def come_again(self, role: str) -> None:
        """Register in the very block that forgets the candidate."""
        due = [item for item in sorted(self.model.notes) if item[1] in self.model.nodes]
        waiting = [(height, node) for height, node in due if self.model.nodes[node].since]
        if waiting:
            height, node = waiting[0]
            while self.world.height + 1 < height:
                self.block()
            identity = self.owner(node)
            self.send(identity, "register", registration(identity, "again", role))
            self.block()

    @rule(pick=SOMEONE, by=SOMEONE, revoked=st.booleans())
    def touch_at_the_end(self, pick: int, by: int, revoked: bool) -> None:
        """Act on a node in the last block of one of its credentials."""
        ends = sorted({(item.expires, *key) for key, item in self.model.credentials.items()})
        ends = [end for end in ends if self.world.height < end[0] < self.world.height + 20]
        ends = [end for end in ends if end[1] in self.model.nodes]
        if not ends:
            return
        height, node, role, _ = ends[pick % len(ends)]
        while self.world.height + 1 < height:
            self.block()
        if revoked:
            data = transactions.revoke(node=node, role=role)
            self.send(self.verifier(by), "revoke", data)
        elif node in self.model.nodes:
            identity = self.owner(node)
            self.send(identity, "update", registration(identity, "touched", role))
        self.block()

    @rule(who=SOMEONE, onto=st.none() | SOMEONE, agreed=st.sampled_from([True, True, False]))
    def rotate(self, who: int, onto: int | None, agreed: bool) -> None:
        identity = self.participant(who)
        new = next(self.fresh) if onto is None else self.pick(onto)
        if new not in self.everyone:
            self.everyone.append(new)
        data = transactions.rotate(CHAIN_ID, identity.public_key, new)
        self.send(identity, "rotate", data if agreed else {**data, "proof": bytes(64)})

    @rule(
        by=SOMEONE,
        who=SOMEONE,
        role=st.sampled_from(["model", "relay", "user"]),
        blocks=st.sampled_from([-1, 0, 1, 2, 7, 30, 60, 61]),
        anyone=st.sampled_from([False, False, False, True]),
    )
    def endorse(self, by: int, who: int, role: str, blocks: int, anyone: bool) -> None:
        expires = max(0, self.world.height + 1 + blocks)
        data = transactions.endorse(node=self.pick(who).id, role=role, expires=expires)
        self.send(self.pick(by) if anyone else self.verifier(by), "endorse", data)

    @rule(by=SOMEONE, pick=SOMEONE)
    def revoke(self, by: int, pick: int) -> None:
        held = sorted(self.model.credentials)
        if held:
            node, role, endorser = held[pick % len(held)]
            data = transactions.revoke(node=node, role=role)
            authors = [v.ids[-1] for v in self.model.verifiers if endorser in v.ids and by % 4]
            author = self.owner(authors[0]) if authors else self.verifier(by)
            self.send(author, "revoke", data)

    @rule(by=SOMEONE, name=st.sampled_from(["tiny", "other", "third"]), real=st.booleans())
    def register_model(self, by: int, name: str, real: bool) -> None:
        data = MODEL_SETTINGS | {"name": name, "deterministic": False}
        self.send(self.verifier(by) if real else self.pick(by), "model", data)

    @rule(by=SOMEONE, who=SOMEONE, score=SCORES, late=st.sampled_from([0, 0, 0, 1]))
    def commit(self, by: int, who: int, score: int, late: int) -> None:
        self.commit_to(self.verifier(by), self.pick(who).id, score, late)

    def commit_to(self, prober: Identity, node: bytes, score: int, late: int = 0) -> None:
        epoch = self.model.epoch + late
        data = score_data(epoch, node, score)
        digest = transactions.score_commitment(CHAIN_ID, prober.public_key, data)
        body = transactions.commit(epoch=epoch, node=node, commitment=digest)
        self.send(prober, "commit", body)
        self.scores[prober.id, node] = score

    @rule(pick=SOMEONE, fault=st.sampled_from(["", "", "", "score", "proof", "epoch", "prober"]))
    def reveal(self, pick: int, fault: str) -> None:
        if not self.scores:
            return
        prober_id, node = sorted(self.scores)[pick % len(self.scores)]
        prober = self.owner(prober_id)
        score = min(self.scores[prober_id, node] + (fault == "score"), 1_000_000)
        proof = self.world.proof(self.pick(pick) if fault == "proof" else prober)
        epoch = self.model.epoch + (fault == "epoch")
        sender = self.pick(pick) if fault == "prober" else prober
        self.send(sender, "reveal", score_data(epoch, node, score, proof=proof))

    @rule(by=SOMEONE, who=SOMEONE, number=st.integers(0, 2), guilty=st.sampled_from([1, 1, 0]))
    def accuse(self, by: int, who: int, number: int, guilty: int) -> None:
        request = b'{"model": "tiny", "temperature": 0, "n": %d}' % number
        ids = [self.model.nodes[node].ids for node in sorted(self.model.conduct)]
        accused = ids[who % len(ids)] if ids and who % 6 else [self.pick(who).id]
        signer = self.owner(accused[by % len(accused)]) if by % 7 else self.pick(who)
        data = conflict(signer, "a", "ab"[guilty], request=request, accused=accused[-1])
        self.send(self.verifier(by), "evidence", data)

    def change(self, kind: str, who: int, amount: int) -> dict[str, Any]:
        if kind == "parameter":
            name, value = VOTED[amount % len(VOTED)]
            return {"kind": kind, "name": name, "value": value}
        if kind == "join":
            identity = self.participant(who) if who % 2 else self.pick(who)
            return {
                "kind": kind,
                "key": identity.public_key,
                "name": "newcomer",
                "consensus_key": participant(210 + who % 4).public_key,
                "onion_key": identity.onion_public,
                "transport_key": identity.transport_public,
                "power": 1 + amount % 45,
            }
        if kind == "upgrade":
            return {"kind": kind, "version": 2 + amount % 2, "height": 1_000_000 + who}
        if kind == "cancel":
            return {"kind": kind, "version": 2 + amount % 2}
        if kind == "expel":
            return {"kind": kind, "node": bytes(self.participant(who).id)}
        if kind == "model":
            name, deterministic = ("tiny", "other", "voted")[who % 3], bool(amount % 2)
            settings = MODEL_SETTINGS | {"name": name, "deterministic": deterministic}
            return {"kind": kind, **settings}
        change = {"kind": kind, "verifier": bytes(self.verifier(who).id)}
        return change if kind == "leave" else {**change, "power": 1 + amount % 60}

    KIND = st.sampled_from(
        ["parameter", "join", "leave", "power"] * 2
        + ["expel", "expel", "cancel", "model"]
        + ["upgrade"]
    )

    @rule(by=SOMEONE, kind=KIND, who=SOMEONE, amount=SOMEONE)
    def propose(self, by: int, kind: str, who: int, amount: int) -> None:
        change = self.change(kind, who, amount)
        self.send(self.verifier(by), "propose", transactions.propose(change=change))

    @rule(by=SOMEONE, back=st.integers(0, 3), approve=st.sampled_from([True, True, False]))
    def vote(self, by: int, back: int, approve: bool) -> None:
        number = max(0, len(self.model.proposals) - back)
        data = transactions.vote(proposal=number, approve=approve)
        self.send(self.verifier(by), "vote", data)

    @rule(kind=KIND, who=SOMEONE, amount=SOMEONE)
    def decide(self, kind: str, who: int, amount: int) -> None:
        """Propose what everyone then votes for."""
        change = self.change(kind, who, amount)
        self.send(self.verifier(0), "propose", transactions.propose(change=change))
        self.block()
        data = transactions.vote(proposal=len(self.model.proposals), approve=True)
        for number in range(1, len(self.model.verifiers)):
            self.send(self.verifier(number), "vote", data)
        self.block()

    @rule(who=st.lists(SOMEONE, min_size=1, max_size=2), known=st.sampled_from([True, True, False]))
    def misbehave(self, who: list[int], known: bool) -> None:
        """CometBFT reports validators that signed two things at once."""
        caught = [self.model.verifiers[number % len(self.model.verifiers)] for number in who]
        addresses = {hashlib.sha256(each.consensus_key).digest()[:20] for each in caught}
        self.world.misbehaving = tuple(addresses) if known else (bytes(20),)
        self.block()

    @rule(who=SOMEONE, by=SOMEONE, back=st.booleans())
    def crowd_out(self, who: int, by: int, back: bool) -> None:
        """A node asks for keys that another has announced. Nobody gives way to an update."""
        identity, other = self.participant(by), self.participant(who)
        node = self.model.nodes.get(identity.id)
        if node is None or identity is other:
            return
        role = sorted(node.roles - {"prober", "verifier"} or {"relay"})[0]
        own = registration(identity, role=role)
        self.send(identity, "update", {**own, "onion_key": other.onion_public})
        if back:
            self.send(identity, "update", own)

    @rule(blocks=st.integers(1, 4))
    def pass_blocks(self, blocks: int) -> None:
        for _ in range(blocks):
            self.block()

    @rule(
        scores=st.lists(SCORES, min_size=6, max_size=6),
        liar=st.none() | SOMEONE,
        withholder=st.none() | st.none() | SOMEONE,
        epochs=st.integers(1, 3),
        zeal=st.sampled_from(["", "", "", "unassigned", "twice", "proof"]),
    )
    def probe(
        self, scores: list[int], liar: int | None, withholder: int | None, epochs: int, zeal: str
    ) -> None:
        """Whole epochs: who is assigned a model node scores it, as real probers do."""
        for _ in range(epochs):
            while self.world.height + 1 != self.model.start:
                self.block()
            self.epoch(scores, liar, withholder, zeal)

    def epoch(self, scores: list[int], liar: int | None, withholder: int | None, zeal: str) -> None:
        probers = [self.verifier(number) for number in range(len(self.model.verifiers))]
        given: dict[tuple[Identity, bytes], int] = {}
        for position, node in enumerate(sorted(self.model.conduct)[:3]):
            for number, prober in enumerate(probers):
                if zeal == "unassigned" or self.world.assigned(prober, node):
                    lies = liar is not None and number == liar % len(probers)
                    given[prober, node] = 0 if lies else scores[position]
        for (prober, node), score in given.items():
            self.world.commit(prober, node, score)
        self.block()
        while self.model.height + 1 < self.world.window.commit_end:
            self.block()
        for (prober, node), score in given.items():
            if withholder is None or prober != probers[withholder % len(probers)]:
                if zeal == "proof":
                    self.world.reveal(prober, node, score, proof=bytes(80))
                    break
                self.world.reveal(prober, node, score)
                if zeal == "twice":
                    self.world.reveal(prober, node, score)
                    break
        self.block()
        while self.world.window.start != self.world.height + 1:
            self.block()

    @rule()
    def block(self) -> None:
        """Apply what is queued to both, and compare all there is."""
        queued = [decode_transaction(raw) for raw in self.world.queued]
        epoch, misbehaving = self.model.epoch, self.world.misbehaving
        result = self.world.block()
        expected = self.model.block(queued, misbehaving)
        codes = [item.code for item in result.results]
        assert codes == expected, [item.log for item in result.results]
        for code, done in zip(codes, result.results, strict=True):
            assert bool(done.events) == (not code)
        if self.model.epoch != epoch:
            self.scores.clear()
        self.check_state()
        self.check_validators(result.validator_updates)
        self.grow(result.writes, result.cleared)

    # What must hold after every block

    def check_state(self) -> None:
        expected = self.model.records()
        found = {
            key: decode(value)
            for key, value in self.world.items.items()
            if store_of(key) not in ("chain", "epochs", "evidence")
        }
        for key in sorted(expected.keys() | found):
            assert expected.get(key, "absent") == found.get(key, "absent"), key
        assert (load(self.world.state, CANDIDATES_KEY) or 0) == self.model.waiting()
        assert (load(self.world.state, PENDING_KEY) or {}) == self.model.pending
        scheduled = load(self.world.state, UPGRADE_KEY)
        coming = scheduled and (scheduled["version"], scheduled["height"])
        assert coming == self.model.upgrade
        self.patience = max(self.patience, self.model.patience)
        invariants.check(self.world.items, self.world.height, self.patience)
        chain = self.world.chain
        assert chain.parameters.to_wire() == self.model.parameters
        assert (chain.epoch.number, chain.epoch.start) == (self.model.epoch, self.model.start)
        assert (chain.epoch.seed, chain.epoch.sample_ppm) == (
            self.model.seed,
            self.model.sample_ppm,
        )
        for key, value in self.world.items.items():
            if store_of(key) in ("chain", "epochs", "evidence"):
                decode(value)
            elif store_of(key) in ("routes", "waiting"):
                assert NodeRecord.from_wire(decode(value)).id == key[-20:]
                assert reputation_key(key[-20:]) in self.world.items or not found[key]["model"]

    def check_validators(self, updates: tuple[tuple[bytes, int], ...]) -> None:
        """CometBFT replays the updates and must come to the verifiers of the state."""
        assert len(dict(updates)) == len(updates)
        for key, power in updates:
            assert self.powers.get(key, 0) != power, "an update that changes nothing"
            self.powers[key] = power
            if not power:
                del self.powers[key]
        assert self.powers == {v.consensus_key: v.power for v in self.model.verifiers}
        assert len({node_id(v.key) for v in self.model.verifiers}) == len(self.model.verifiers) > 0

    def grow(self, writes: Mapping[bytes, bytes | None], cleared: tuple[str, ...]) -> None:
        """Bring the trees up to date step by step and compare with trees made from scratch."""

        def read(store: str, path: bytes) -> bytes | None:
            return self.nodes.get((store, path))

        self.roots, changed = advance(read, self.roots, writes, cleared)
        self.nodes = {key: node for key, node in self.nodes.items() if key[0] not in cleared}
        for key, node in changed.items():
            if node is None:
                self.nodes.pop(key, None)
            else:
                self.nodes[key] = node
        stores: dict[str, list[tuple[bytes, bytes]]] = {store: [] for store in STORES}
        for item in self.world.items.items():
            stores[store_of(item[0])].append(item)
        assert app_hash(self.roots) == app_hash(
            {name: root_of(items) for name, items in stores.items()}
        )


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def test_the_ledger_agrees_with_the_model() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=QUIET
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_the_ledger_agrees_with_the_model_at_length() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=1_500, stateful_step_count=80, deadline=None, suppress_health_check=QUIET
        ),
    )
