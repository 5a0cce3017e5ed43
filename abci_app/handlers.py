"""ABCI 2.0 requests to responses: protobuf on the outside, the application's values inside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from abci_app.application import Application
from abci_app.core.chain import GenesisError
from abci_app.core.chunks import FORMAT
from abci_app.core.codes import MEANINGS, Code
from abci_app.core.events import Event
from abci_app.core.queries import Answer
from abci_app.core.transition import TransactionResult
from abci_app.housekeeping import Housekeeping
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.proto.tendermint.crypto import keys_pb2, proof_pb2
from abci_app.proto.tendermint.types import params_pb2
from abci_app.restore import Applied, Offered, StateSync
from abci_app.snapshots import Archive
from planetserve.errors import ConfigurationError, PlanetServeError
from planetserve.logs import get_logger

CODESPACE = "planetserve"
TIMED_CHECKS = 16
"""Of so many CheckTx requests one is timed: to time it takes a tenth of its own time."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Operations:
    """What a node does besides consensus and queries."""

    archive: Archive
    state_sync: StateSync
    housekeeping: Housekeeping


class Handlers:
    """Answers every request of one node. Each connection may call it from its own thread; the
    application orders what must be in order."""

    def __init__(
        self,
        application: Application,
        metrics: LedgerMetrics,
        operations: Operations | None = None,
    ) -> None:
        self._application = application
        self._metrics = metrics
        self._operations = operations
        self._checks = 0
        self._block_time_s = 0
        self._answers = {
            field.name: (getattr(self, f"_{field.name}"), metrics.seconds.labels(field.name))
            for field in abci.Request.DESCRIPTOR.fields
        }
        metrics.height.set(application.head.height)

    def handle(self, request: abci.Request) -> abci.Response:
        """Any exception from here is a fault of ours or of consensus, never of a transaction:
        the caller must stop the node."""
        name = request.WhichOneof("value")
        if name is None:
            raise ValueError("a request without content")
        if name == "check_tx":
            return self._checked(request.check_tx)
        answer, seconds = self._answers[name]
        with seconds.time():
            return abci.Response(**{name: answer(getattr(request, name))})

    def _checked(self, request: abci.RequestCheckTx) -> abci.Response:
        """The request that comes most: a sample of them is timed."""
        self._checks += 1
        if self._checks % TIMED_CHECKS:
            return abci.Response(check_tx=self._check_tx(request))
        with self._answers["check_tx"][1].time():
            return abci.Response(check_tx=self._check_tx(request))

    def _echo(self, request: abci.RequestEcho) -> abci.ResponseEcho:
        return abci.ResponseEcho(message=request.message)

    def _flush(self, request: abci.RequestFlush) -> abci.ResponseFlush:
        return abci.ResponseFlush()

    def _info(self, request: abci.RequestInfo) -> abci.ResponseInfo:
        head = self._application.head
        return abci.ResponseInfo(
            data="planetserve",
            # Before there is a state CometBFT takes the first version from here.
            app_version=self._application.version or 1,
            last_block_height=head.height,
            last_block_app_hash=head.app_hash,
        )

    def _init_chain(self, request: abci.RequestInitChain) -> abci.ResponseInitChain:
        try:
            app_hash, verifiers = self._application.init_chain(
                request.chain_id, request.app_state_bytes, request.initial_height
            )
        except GenesisError as error:
            raise ConfigurationError(f"the genesis document's app_state: {error}") from error
        if _powers(request.validators) != {v.consensus_key: v.power for v in verifiers}:
            raise ConfigurationError(
                "the genesis document's validators and its app_state's verifiers differ"
            )
        return abci.ResponseInitChain(
            app_hash=app_hash, consensus_params=_rules_of(self._application.version)
        )

    def _query(self, request: abci.RequestQuery) -> abci.ResponseQuery:
        answer = self._application.query(request.path, request.data, request.height, request.prove)
        return abci.ResponseQuery(
            code=answer.code,
            log=answer.log,
            key=answer.key,
            value=answer.value,
            height=answer.height,
            codespace=CODESPACE if answer.code else "",
            proof_ops=_proof(answer),
        )

    def _check_tx(self, request: abci.RequestCheckTx) -> abci.ResponseCheckTx:
        try:
            result = self._application.check(request.tx, request.type == abci.RECHECK)
        except Exception:
            # Consensus does not depend on this answer, and the node must not fall to one sender.
            log.exception("a transaction could not be checked")
            result = TransactionResult(Code.NOT_CHECKED, MEANINGS[Code.NOT_CHECKED])
        if result.code is Code.OK:
            return abci.ResponseCheckTx()
        self._metrics.refused.labels(str(int(result.code))).inc()
        return abci.ResponseCheckTx(code=result.code, log=result.log, codespace=CODESPACE)

    def _prepare_proposal(
        self, request: abci.RequestPrepareProposal
    ) -> abci.ResponsePrepareProposal:
        chosen = self._application.select(
            request.height, request.txs, request.max_tx_bytes, _misbehaving(request.misbehavior)
        )
        return abci.ResponsePrepareProposal(txs=chosen)

    def _process_proposal(
        self, request: abci.RequestProcessProposal
    ) -> abci.ResponseProcessProposal:
        statuses = abci.ResponseProcessProposal
        try:
            accepted = self._application.acceptable(
                request.height, request.txs, _misbehaving(request.misbehavior)
            )
        except PlanetServeError:
            raise
        except Exception:
            # Nor to one proposer: what cannot be executed here is not voted for.
            log.exception("a proposal could not be executed")
            accepted = False
        return abci.ResponseProcessProposal(status=statuses.ACCEPT if accepted else statuses.REJECT)

    def _extend_vote(self, request: abci.RequestExtendVote) -> abci.ResponseExtendVote:
        return abci.ResponseExtendVote()

    def _verify_vote_extension(
        self, request: abci.RequestVerifyVoteExtension
    ) -> abci.ResponseVerifyVoteExtension:
        return abci.ResponseVerifyVoteExtension(status=abci.ResponseVerifyVoteExtension.ACCEPT)

    def _finalize_block(self, request: abci.RequestFinalizeBlock) -> abci.ResponseFinalizeBlock:
        staged = self._application.finalize(
            request.height, request.txs, _misbehaving(request.misbehavior)
        )
        self._block_time_s = request.time.seconds
        result = staged.result
        self._metrics.count(result)
        version = staged.new_version
        return abci.ResponseFinalizeBlock(
            events=_events(result.events),
            tx_results=[_executed(item) for item in result.results],
            validator_updates=[
                abci.ValidatorUpdate(pub_key=keys_pb2.PublicKey(ed25519=key), power=power)
                for key, power in result.validator_updates
            ],
            consensus_param_updates=None if version is None else _rules_of(version),
            app_hash=staged.head.app_hash,
        )

    def _commit(self, request: abci.RequestCommit) -> abci.ResponseCommit:
        state = self._application.commit()
        self._metrics.height.set(state.height)
        if self._operations is None:
            return abci.ResponseCommit()
        self._operations.housekeeping.committed(state, self._block_time_s)
        retained = self._operations.housekeeping.retain_height(state.height)
        return abci.ResponseCommit(retain_height=retained)

    def _list_snapshots(self, request: abci.RequestListSnapshots) -> abci.ResponseListSnapshots:
        available = () if self._operations is None else self._operations.archive.available
        return abci.ResponseListSnapshots(
            snapshots=[
                abci.Snapshot(
                    height=item.height,
                    format=item.format,
                    chunks=len(item.manifest.chunks),
                    hash=item.hash,
                    metadata=item.metadata,
                )
                for item in available
            ]
        )

    def _offer_snapshot(self, request: abci.RequestOfferSnapshot) -> abci.ResponseOfferSnapshot:
        if self._operations is None:
            return abci.ResponseOfferSnapshot(result=abci.ResponseOfferSnapshot.ABORT)
        shown = request.snapshot
        outcome = self._operations.state_sync.offer(
            shown.height, shown.format, shown.chunks, shown.hash, shown.metadata, request.app_hash
        )
        return abci.ResponseOfferSnapshot(result=OFFERED[outcome])

    def _load_snapshot_chunk(
        self, request: abci.RequestLoadSnapshotChunk
    ) -> abci.ResponseLoadSnapshotChunk:
        if self._operations is None or request.format != FORMAT:
            return abci.ResponseLoadSnapshotChunk()
        chunk = self._operations.archive.chunk(request.height, request.chunk)
        return abci.ResponseLoadSnapshotChunk(chunk=chunk)

    def _apply_snapshot_chunk(
        self, request: abci.RequestApplySnapshotChunk
    ) -> abci.ResponseApplySnapshotChunk:
        if self._operations is None:
            return abci.ResponseApplySnapshotChunk(result=abci.ResponseApplySnapshotChunk.ABORT)
        outcome = self._operations.state_sync.apply(request.index, request.chunk)
        if outcome is Applied.DAMAGED:
            return abci.ResponseApplySnapshotChunk(
                result=APPLIED[outcome],
                refetch_chunks=[request.index],
                reject_senders=[request.sender],
            )
        if self._application.head.height:
            self._metrics.height.set(self._application.head.height)
        return abci.ResponseApplySnapshotChunk(result=APPLIED[outcome])


OFFERED = {
    Offered.ACCEPTED: abci.ResponseOfferSnapshot.ACCEPT,
    Offered.REFUSED: abci.ResponseOfferSnapshot.REJECT,
    Offered.WRONG_FORMAT: abci.ResponseOfferSnapshot.REJECT_FORMAT,
    Offered.LIE: abci.ResponseOfferSnapshot.REJECT_SENDER,
    Offered.NOT_WANTED: abci.ResponseOfferSnapshot.ABORT,
}
APPLIED = {
    Applied.ACCEPTED: abci.ResponseApplySnapshotChunk.ACCEPT,
    Applied.DAMAGED: abci.ResponseApplySnapshotChunk.RETRY,
    Applied.SNAPSHOT_REFUSED: abci.ResponseApplySnapshotChunk.REJECT_SNAPSHOT,
    Applied.START_AGAIN: abci.ResponseApplySnapshotChunk.RETRY_SNAPSHOT,
    Applied.NOT_WANTED: abci.ResponseApplySnapshotChunk.ABORT,
}


def _rules_of(version: int) -> params_pb2.ConsensusParams:
    """The version of the rules, as headers name it; all other parameters stay."""
    return params_pb2.ConsensusParams(version=params_pb2.VersionParams(app=version))


def _misbehaving(found: Iterable[abci.Misbehavior]) -> list[bytes]:
    """The addresses of validators that have signed two things or attacked light clients."""
    return [item.validator.address for item in found]


def _powers(validators: Iterable[abci.ValidatorUpdate]) -> dict[bytes, int]:
    return {validator.pub_key.ed25519: validator.power for validator in validators}


def _proof(answer: Answer) -> proof_pb2.ProofOps | None:
    if not answer.proof:
        return None
    return proof_pb2.ProofOps(
        ops=[
            proof_pb2.ProofOp(type=step.kind, key=step.key, data=step.data) for step in answer.proof
        ]
    )


def _executed(result: TransactionResult) -> abci.ExecTxResult:
    if result.code is Code.OK:
        return abci.ExecTxResult(events=_events(result.events))
    return abci.ExecTxResult(code=result.code, log=result.log, codespace=CODESPACE)


def _events(events: Iterable[Event]) -> list[abci.Event]:
    return [
        abci.Event(
            type=event.kind,
            attributes=[
                abci.EventAttribute(key=key, value=value, index=True)
                for key, value in event.attributes
            ],
        )
        for event in events
    ]
