"""The whole state machine against a small model in fractions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from abci_app.core.routes import all_routes
from abci_app.core.transactions import next_nonce
from planetserve import transactions
from planetserve.records import CANDIDATE, REVOKED, TRUSTED, UNTRUSTED
from planetserve.transactions import COMMIT, ENDORSE, REGISTER, REVEAL, REVOKE
from tests.abci_app.world import CHAIN_ID, VERIFIERS, World, participant, registration, score_data

EPOCH, COMMITS = 6, 3
POWERS = (40, 30, 20, 10)
NODES = tuple(participant(number) for number in range(30, 33))
PARAMS = {"epoch_blocks": EPOCH, "commit_blocks": COMMITS, "max_endorsements_per_epoch": 4}


@dataclass
class ModelNode:
    role: str
    reputation: Fraction | None = None
    credits: list[int] = field(default_factory=list)
    credentials: dict[int, int | None] = field(default_factory=dict)
    """By endorser: the expiry height, None once revoked."""

    def status(self, height: int) -> str:
        expiries = [expiry for expiry in self.credentials.values() if expiry is not None]
        live = any(height <= expiry for expiry in expiries)
        if not live and len(expiries) < len(self.credentials):
            return REVOKED
        if self.reputation is not None and self.reputation < 300_000:
            return UNTRUSTED
        return TRUSTED if live else CANDIDATE


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(PARAMS, POWERS)
        self.nodes: dict[int, ModelNode] = {}
        self.committed: set[tuple[int, int, int]] = set()
        self.revealed: dict[int, dict[int, int]] = {}
        self.nonces: dict[bytes, int] = {}
        self.endorsed = [0] * len(VERIFIERS)

    @property
    def offset(self) -> int:
        """Of the next block in its epoch."""
        return self.world.height % EPOCH

    @property
    def epoch(self) -> int:
        return self.world.height // EPOCH

    def send(self, identity: object, kind: str, data: dict[str, object], expected: bool) -> None:
        """A block of one transaction, which must succeed exactly when `expected`."""
        assert isinstance(identity, type(VERIFIERS[0]))
        code = self.world.code_of(identity, kind, data)
        assert (code == 0) is expected, code
        if code == 0:
            self.nonces[identity.id] = self.nonces.get(identity.id, 0) + 1
        self.after_block()

    def after_block(self) -> None:
        if self.world.height % EPOCH:
            return
        for index, scores in self.revealed.items():
            power = sum(POWERS[prober] for prober in scores)
            if Fraction(power, sum(POWERS)) > Fraction(2, 3):
                self.settle(self.nodes[index], scores)
        self.revealed, self.committed = {}, set()
        self.endorsed = [0] * len(VERIFIERS)

    def settle(self, node: ModelNode, scores: dict[int, int]) -> None:
        weighted = sorted(score for prober, score in scores.items() for _ in range(POWERS[prober]))
        credit = weighted[(len(weighted) - 1) // 2]
        node.credits.append(credit)
        abnormal = sum(item < 400_000 for item in node.credits[-5:])
        assert node.reputation is not None
        kept = Fraction(2, 5) * node.reputation
        if Fraction(abnormal, 5) > Fraction(1, 5):
            exact = kept + Fraction(credit * 6, 5 + 5 * abnormal + 2)
        else:
            exact = kept + Fraction(3, 5) * credit
        node.reputation = Fraction(floor(exact))

    @rule(index=st.sampled_from(range(3)), role=st.sampled_from(["model", "relay"]))
    def register(self, index: int, role: str) -> None:
        known = self.nodes.get(index)
        if known is not None:
            role = known.role
        data = registration(NODES[index], f"node-{index}", role)
        self.send(NODES[index], REGISTER, data, expected=True)
        if known is None:
            reputation = Fraction(500_000) if role == "model" else None
            self.nodes[index] = ModelNode(role, reputation)

    @rule(
        index=st.sampled_from(range(3)),
        verifier=st.sampled_from(range(4)),
        blocks=st.integers(-1, 30),
    )
    def endorse(self, index: int, verifier: int, blocks: int) -> None:
        node = self.nodes.get(index)
        height = self.world.height + 1
        expires = max(0, height + blocks)
        role = node.role if node else "relay"
        data = transactions.endorse(node=NODES[index].id, role=role, expires=expires)
        valid = node is not None and expires > height and self.endorsed[verifier] < 4
        if node is not None and valid:
            node.credentials[verifier] = expires
            self.endorsed[verifier] += 1
        self.send(VERIFIERS[verifier], ENDORSE, data, expected=valid)

    @rule(index=st.sampled_from(range(3)), verifier=st.sampled_from(range(4)))
    def revoke(self, index: int, verifier: int) -> None:
        node = self.nodes.get(index)
        role = node.role if node else "relay"
        expiry = node.credentials.get(verifier) if node else None
        live = expiry is not None and self.world.height + 1 <= expiry
        data = transactions.revoke(node=NODES[index].id, role=role)
        if node is not None and live:
            node.credentials[verifier] = None
        self.send(VERIFIERS[verifier], REVOKE, data, expected=live)

    @rule(
        index=st.sampled_from(range(3)),
        prober=st.sampled_from(range(4)),
        score=st.sampled_from([0, 250_000, 399_999, 400_000, 800_000, 1_000_000]),
    )
    def commit(self, index: int, prober: int, score: int) -> None:
        data = score_data(self.epoch, NODES[index].id, score)
        digest = transactions.score_commitment(CHAIN_ID, VERIFIERS[prober].public_key, data)
        entry = (index, prober, score)
        valid = self.offset < COMMITS and entry not in self.committed
        if valid:
            self.committed.add(entry)
        body = transactions.commit(epoch=self.epoch, commitment=digest)
        self.send(VERIFIERS[prober], COMMIT, body, expected=valid)

    @precondition(lambda self: self.committed)
    @rule(pick=st.integers(0, 1_000), shift=st.sampled_from([0, 0, 0, 1]))
    def reveal(self, pick: int, shift: int) -> None:
        """Open a commitment, sometimes another score than the committed one."""
        index, prober, score = sorted(self.committed)[pick % len(self.committed)]
        score = min(score + shift, 1_000_000)
        node = self.nodes.get(index)
        data = score_data(self.epoch, NODES[index].id, score)
        valid = (
            COMMITS <= self.offset < EPOCH - 1
            and node is not None
            and node.role == "model"
            and (index, prober, score) in self.committed
            and prober not in self.revealed.get(index, {})
        )
        if valid:
            self.revealed.setdefault(index, {})[prober] = score
        self.send(VERIFIERS[prober], REVEAL, data, expected=valid)

    @rule(score=st.sampled_from([100_000, 350_000, 700_000]))
    @precondition(lambda self: any(node.role == "model" for node in self.nodes.values()))
    def whole_epoch(self, score: int) -> None:
        """Three probers commit and reveal one score of a model node, from epoch to epoch."""
        index = min(i for i, node in self.nodes.items() if node.role == "model")
        while self.offset:
            self.skip(1)
        for prober in range(3):
            self.commit(index, prober, score)
        for prober in range(2):
            data = score_data(self.epoch, NODES[index].id, score)
            self.revealed.setdefault(index, {})[prober] = score
            self.send(VERIFIERS[prober], REVEAL, data, expected=True)
        self.skip(1)

    @rule(blocks=st.integers(1, 7))
    def skip(self, blocks: int) -> None:
        for _ in range(blocks):
            self.world.block()
            self.after_block()

    @invariant()
    def agrees_with_the_model(self) -> None:
        height = self.world.height
        routes = {node.id: node for node in all_routes(self.world.state, height)}
        assert len(routes) == len(VERIFIERS) + len(self.nodes)
        for index, node in self.nodes.items():
            found = routes[NODES[index].id]
            assert found.status == node.status(height)
            assert found.reputation_ppm == node.reputation
        for account, nonce in self.nonces.items():
            assert next_nonce(self.world.state, account) == nonce

    @invariant()
    def leaves_nothing_of_settled_epochs(self) -> None:
        open_epoch = self.epoch.to_bytes(8, "big")
        for key in self.world.items:
            store, _, rest = key.partition(b"/")
            if store in (b"commits", b"reveals", b"quotas"):
                assert rest.startswith(open_epoch)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase
