"""The prober process: follows the chain and carries out what `prober.epoch_round` decides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from planetserve import vrf
from planetserve.assignment import is_assigned, ticket_input
from planetserve.errors import (
    ConfigurationError,
    NetworkNotFound,
    OutcomeUnknown,
    ProofRefused,
    RemoteProtocolError,
    TransactionRejected,
)
from planetserve.keys import Identity
from planetserve.ledger import LedgerClient
from planetserve.logs import get_logger
from planetserve.records import ChainStatus, NodeRecord, RouteSet
from planetserve.rpc import RpcError
from planetserve.scoring.judgement import chance_ppm
from planetserve.scoring.reputation import reputation_from
from planetserve.statekeys import credential_key, reputation_key
from planetserve.transactions import (
    COMMIT,
    ENDORSE,
    REVEAL,
    commit,
    endorse,
    reveal,
    score_commitment,
)
from prober import epoch_round, pending
from prober.endorsing import due_endorsements, waits
from prober.epoch_round import (
    Clock,
    Commit,
    EpochRound,
    Probe,
    Score,
    Step,
    by_seed,
    drawn_newcomers,
)
from prober.judge import Judge, NoVerdict
from prober.transcripts import keep

POLL_S = 0.5
CREDENTIAL_BLOCKS = 1_000_000

EVENTS = Counter("planetserve_prober_events", "What a prober did, by kind", ["event"])

log = get_logger()


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the live table or of `--json`. `what` is probe, abstain, commit, reveal,
    refused, settled or endorse; fields that do not apply are None."""

    what: str
    epoch: int
    node: str
    node_id: str
    prompt_bytes: int | None = None
    similarity_ppm: int | None = None
    credit_ppm: int | None = None
    reputation_ppm: int | None = None
    status: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProberSettings:
    """`samples` challenges a node and epoch; `epochs` ends the prober after so many, None never;
    `endorse_open` admits every node that registers, as far as the ledger's caps go; `pending`
    is the file of scores that are committed and not yet revealed."""

    samples: int
    epochs: int | None
    endorse_open: bool
    transcripts: Path
    pending: Path


class Prober:
    """Runs until its epochs are over or its task is cancelled. Judging starts when `judge` is
    set, so that a prober endorses nodes before there are enough of them to ask anything."""

    def __init__(
        self,
        identity: Identity,
        ledger: LedgerClient,
        settings: ProberSettings,
        observe: Callable[[Event], None],
    ) -> None:
        self._identity = identity
        self._ledger = ledger
        self._settings = settings
        self._observe = observe
        self._rng = random.SystemRandom()
        self._round: EpochRound | None = None
        self._routes: RouteSet | None = None
        self._verifiers: list[bytes] = []
        self._proof = bytes(vrf.PROOF_BYTES)
        self._may_commit = False
        self._short_of_time = False
        self._kept = pending.load(settings.pending)
        self._first_seen_s: dict[bytes, float] = {}
        self._endorsing: set[bytes] = set()
        self._waiting: tuple[NodeRecord, ...] = ()
        self._disowned: set[bytes] = set()
        self._one_probe = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.judge: Judge | None = None
        self.epochs_done = 0
        self.chain_seen = False

    @property
    def admitting(self) -> bool:
        """Whether nodes wait for a credential that this prober may give."""
        return bool(self._first_seen_s or self._endorsing)

    async def run(self) -> None:
        """Raises `ConfigurationError` when the key is no verifier's on this ledger."""
        try:
            while self._settings.epochs is None or self.epochs_done < self._settings.epochs:
                try:
                    await self._turn()
                    self.chain_seen = True
                except (NetworkNotFound, RpcError, RemoteProtocolError, ProofRefused) as error:
                    self.chain_seen = False
                    log.warning("ledger_unreachable", reason=str(error))
                await asyncio.sleep(POLL_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _turn(self) -> None:
        status = await self._ledger.status()
        # The state that can be proven is one block behind the chain.
        clock = Clock(
            status.height + 1,
            status.epoch,
            status.epoch_start,
            status.commit_end,
            status.reveal_end,
            status.epoch_end,
        )
        self._may_commit = clock.may_commit
        self._verifiers = [verifier.id for verifier in status.verifiers]
        if self._identity.id not in self._verifiers:
            raise ConfigurationError(
                f"{self._identity.id.hex()} is no verifier's prober key on this ledger; "
                "see `ps-ledger status` for those that are"
            )
        self._routes = await self._ledger.routes()
        if self._settings.endorse_open:
            self._waiting = await self._ledger.waiting()
            self._endorse()
        if self._round is None or self._round.epoch != clock.epoch:
            self._settled(clock)
            await self._begin(clock, status)
        if self._round is not None:
            self._round, steps = epoch_round.next_steps(self._round, clock)
            for step in steps:
                self._spawn(self._carry_out(step, self._round.epoch))

    async def _begin(self, clock: Clock, status: ChainStatus) -> None:
        self._proof = vrf.prove(
            self._identity.seed, ticket_input(status.chain_id, status.epoch, status.seed)
        )
        epoch, scores = self._kept
        if epoch == clock.epoch and scores and self._round is None:
            self._round = epoch_round.resume(clock, scores)
            return
        self._round = None
        benched = any(
            verifier.id == self._identity.id and verifier.benched >= clock.epoch
            for verifier in status.verifiers
        )
        if self.judge is None or not clock.may_begin or self._routes is None or benched:
            return
        nodes = await self._assigned(status)
        fractions = dict(zip(nodes, sorted(self._rng.random() for _ in nodes), strict=True))
        self._kept = (clock.epoch, [])
        self._round = epoch_round.begin(clock, nodes, fractions)

    async def _assigned(self, status: ChainStatus) -> list[bytes]:
        """The model nodes that this prober's ticket assigns it in the running epoch: those that
        users are routed to first, and then the same few newcomers for every prober, so that no
        crowd of them can keep the others from being judged. When time is short, those of which
        least is known come first."""
        assert self._routes is not None
        output = vrf.output(self._proof)
        full_below_ppm = status.parameters["full_below_ppm"]
        store = (await self._ledger.read(stores=("reputation",))).stores["reputation"]
        nodes: list[bytes] = []
        newcomers: list[bytes] = []
        judged: dict[bytes, int] = {}
        for node in self._routes.nodes:
            record = store.get(reputation_key(node.id))
            if record is None or "model" not in node.roles:
                continue
            if not node.admitted(status.height):
                continue
            reputation = reputation_from(record)
            chance = chance_ppm(reputation, full_below_ppm, status.sample_ppm)
            if is_assigned(output, node.id, chance):
                (nodes if reputation.admitted else newcomers).append(bytes(node.id))
                judged[bytes(node.id)] = len(reputation.window_ppm)
        if self._short_of_time:
            nodes = sorted(by_seed(status.seed, nodes), key=judged.__getitem__)
        else:
            self._rng.shuffle(nodes)
        return nodes + drawn_newcomers(status.seed, newcomers)

    def _settled(self, clock: Clock) -> None:
        """Report what the epoch that just ended did to each node's reputation."""
        if self._round is None or self._routes is None:
            return
        self.epochs_done += 1
        self._short_of_time = self._round.short_of_time
        for identifier in self._round.stages:
            node = self._routes.find(identifier)
            if node is not None:
                self._tell("settled", identifier, self._round.epoch)

    async def _carry_out(self, step: Step, epoch: int) -> None:
        # A node may have left the route set since it was asked. What is committed must be opened
        # all the same, or whoever leaves at the right moment has every prober penalised.
        identifier = step.node if isinstance(step, Probe) else step.score.node
        try:
            if isinstance(step, Probe):
                async with self._one_probe:
                    if not self._has_time(epoch):
                        self._tell("abstain", identifier, epoch, reason="no time is left for it")
                        return
                    await self._probe(identifier, epoch)
            elif isinstance(step, Commit):
                await self._send_commit(step.score, epoch)
            else:
                await self._send_reveal(step.score, epoch)
        except NoVerdict as error:
            self._enter(identifier, epoch_round.ABSTAINED, epoch)
            self._tell("abstain", identifier, epoch, reason=str(error))
        except (
            ProofRefused,
            NetworkNotFound,
            OutcomeUnknown,
            RpcError,
            RemoteProtocolError,
        ) as error:
            # The ledger may have taken it or not: a commitment must be opened if it did.
            stage = epoch_round.ABSTAINED if isinstance(step, Probe) else epoch_round.COMMITTED
            self._enter(identifier, stage, epoch)
            self._tell("refused", identifier, epoch, reason=str(error))
        except TransactionRejected as error:
            self._enter(identifier, epoch_round.after_refusal(step, proven=error.proven), epoch)
            self._tell("refused", identifier, epoch, reason=str(error))

    def _has_time(self, epoch: int) -> bool:
        """Whether what a probe finds may still be committed to. One that waited too long for
        its turn is left out, or it would cost the next epoch its time."""
        return self._may_commit and self._round is not None and self._round.epoch == epoch

    async def _probe(self, identifier: bytes, epoch: int) -> None:
        node = self._routes.find(identifier) if self._routes else None
        if node is None:
            raise NoVerdict("the node has left the route set")
        assert self.judge is not None
        verdict = await self.judge.judge(node, epoch, self._settings.samples)
        await asyncio.to_thread(keep, self._settings.transcripts, verdict.transcripts)
        if self._round is not None and self._round.epoch == epoch:
            self._round = self._round.scored(verdict.score)
        reason = next((t.failure for t in verdict.transcripts if t.failure), "")
        self._tell(
            "probe",
            identifier,
            epoch,
            prompt_bytes=verdict.prompt_bytes,
            similarity_ppm=verdict.similarity_ppm,
            credit_ppm=verdict.score.score_ppm,
            reason=reason,
        )

    async def _send_commit(self, score: Score, epoch: int) -> None:
        # On disk first: what is committed must be opened, also after a restart.
        self._kept = (epoch, [*(self._kept[1] if self._kept[0] == epoch else []), score])
        await asyncio.to_thread(pending.save, self._settings.pending, *self._kept)
        commitment = score_commitment(
            self._ledger.network.chain_id,
            self._identity.public_key,
            self._reveal_data(score, epoch),
        )
        data = commit(epoch=epoch, node=score.node, commitment=commitment)
        await self._ledger.send(self._identity, COMMIT, data)
        self._enter(score.node, epoch_round.COMMITTED, epoch)
        self._tell("commit", score.node, epoch)

    async def _send_reveal(self, score: Score, epoch: int) -> None:
        await self._ledger.send(self._identity, REVEAL, self._reveal_data(score, epoch))
        self._enter(score.node, epoch_round.DONE, epoch)
        self._tell("reveal", score.node, epoch, credit_ppm=score.score_ppm)

    def _endorse(self) -> None:
        assert self._routes is not None
        now_s = asyncio.get_running_loop().time()
        nodes = [*self._waiting, *self._routes.nodes]
        waiting = {node.id for node in nodes if waits(node, self._routes.height)}
        self._first_seen_s = {
            node: self._first_seen_s.get(node, now_s) for node in waiting - self._disowned
        }
        due = due_endorsements(
            [node for node in nodes if node.id in self._first_seen_s],
            self._verifiers,
            self._identity.id,
            self._first_seen_s,
            now_s,
            self._routes.height,
        )
        for node, role in due:
            if node.id not in self._endorsing:
                self._endorsing.add(node.id)
                self._spawn(self._send_endorsement(node, role, self._routes.height))

    async def _send_endorsement(self, node: NodeRecord, role: str, height: int) -> None:
        try:
            own = credential_key(node.id, role, self._identity.id)
            former = (await self._ledger.read((own,))).records[own]
            if former is not None and former["revoked"]:
                self._disowned.add(node.id)
                return
            data = endorse(node=node.id, role=role, expires=height + CREDENTIAL_BLOCKS)
            await self._ledger.send(self._identity, ENDORSE, data)
            self._tell("endorse", node.id, 0)
        except (
            TransactionRejected,
            NetworkNotFound,
            OutcomeUnknown,
            RpcError,
            RemoteProtocolError,
            ProofRefused,
        ) as error:
            self._tell("refused", node.id, 0, reason=str(error))
        finally:
            self._endorsing.discard(node.id)

    def _enter(self, node: bytes, stage: str, epoch: int) -> None:
        if self._round is not None and self._round.epoch == epoch:
            self._round = self._round.at(node, stage)

    def _tell(self, what: str, identifier: bytes, epoch: int, **fields: Any) -> None:
        """Of a node that has left the route set nothing may be known but its id."""
        EVENTS.labels(what).inc()
        known = (*(self._routes.nodes if self._routes else ()), *self._waiting)
        node = next((node for node in known if node.id == identifier), None)
        if node is not None:
            fields = {"reputation_ppm": node.reputation_ppm, "status": node.status, **fields}
        name = identifier.hex()[:12] if node is None else node.name
        self._observe(Event(what, epoch, name, identifier.hex(), **fields))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("prober_step_failed", exc_info=task.exception())
            EVENTS.labels("failed").inc()

    def _reveal_data(self, score: Score, epoch: int) -> dict[str, Any]:
        return reveal(
            epoch=epoch,
            node=score.node,
            score_ppm=score.score_ppm,
            samples=score.samples,
            digest=score.digest,
            salt=score.salt,
            proof=self._proof,
        )
