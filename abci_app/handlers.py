"""ABCI 2.0 requests to responses: protobuf on the outside, the application's values inside."""

from __future__ import annotations

from collections.abc import Iterable

from abci_app.application import Application
from abci_app.core.codes import MEANINGS, Code
from abci_app.core.parameters import GenesisError
from abci_app.core.transition import Event, TransactionResult
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from planetserve.errors import ConfigurationError
from planetserve.logs import get_logger

APP_VERSION = 1

log = get_logger()


class Handlers:
    """Answers every request of one node; the order of calls is the order on the sockets."""

    def __init__(self, application: Application, metrics: LedgerMetrics) -> None:
        self._application = application
        self._metrics = metrics
        metrics.height.set(application.head.height)

    def handle(self, request: abci.Request) -> abci.Response:
        """Any exception from here is a fault of ours or of consensus, never of a transaction:
        the caller must stop the node."""
        name = request.WhichOneof("value")
        if name is None:
            raise ValueError("a request without content")
        with self._metrics.seconds.labels(name).time():
            response = abci.Response()
            answer = getattr(self, f"_{name}")(getattr(request, name))
            getattr(response, name).CopyFrom(answer)
            return response

    def _echo(self, request: abci.RequestEcho) -> abci.ResponseEcho:
        return abci.ResponseEcho(message=request.message)

    def _flush(self, request: abci.RequestFlush) -> abci.ResponseFlush:
        return abci.ResponseFlush()

    def _info(self, request: abci.RequestInfo) -> abci.ResponseInfo:
        head = self._application.head
        return abci.ResponseInfo(
            data="planetserve",
            app_version=APP_VERSION,
            last_block_height=head.height,
            last_block_app_hash=head.app_hash,
        )

    def _init_chain(self, request: abci.RequestInitChain) -> abci.ResponseInitChain:
        try:
            app_hash, verifiers = self._application.init_chain(
                request.chain_id, request.app_state_bytes
            )
        except GenesisError as error:
            raise ConfigurationError(f"the genesis document's app_state: {error}") from error
        if _powers(request.validators) != {v.consensus_key: v.power for v in verifiers}:
            raise ConfigurationError(
                "the genesis document's validators and its app_state's verifiers differ"
            )
        return abci.ResponseInitChain(app_hash=app_hash)

    def _query(self, request: abci.RequestQuery) -> abci.ResponseQuery:
        head = self._application.head
        answer = self._application.query(request.path)
        return abci.ResponseQuery(
            code=answer.code,
            log=answer.log,
            value=answer.value,
            height=head.height,
            codespace="planetserve" if answer.code else "",
        )

    def _check_tx(self, request: abci.RequestCheckTx) -> abci.ResponseCheckTx:
        try:
            result = self._application.check(request.tx)
        except Exception:
            # Consensus does not depend on this answer, and the node must not fall to one sender.
            log.exception("a transaction could not be checked")
            result = TransactionResult(Code.NOT_CHECKED, MEANINGS[Code.NOT_CHECKED])
        if result.code is not Code.OK:
            self._metrics.refused.labels(str(int(result.code))).inc()
        return abci.ResponseCheckTx(code=result.code, log=result.log, codespace=_codespace(result))

    def _prepare_proposal(
        self, request: abci.RequestPrepareProposal
    ) -> abci.ResponsePrepareProposal:
        chosen = self._application.select(request.height, request.txs, request.max_tx_bytes)
        return abci.ResponsePrepareProposal(txs=chosen)

    def _process_proposal(
        self, request: abci.RequestProcessProposal
    ) -> abci.ResponseProcessProposal:
        statuses = abci.ResponseProcessProposal
        try:
            accepted = self._application.acceptable(request.height, request.txs)
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
        result, app_hash = self._application.finalize(request.height, request.txs)
        for item in result.results:
            self._metrics.transactions.labels(str(int(item.code))).inc()
        self._metrics.settled.inc(len(result.settled))
        return abci.ResponseFinalizeBlock(
            events=_events(result.events),
            tx_results=[
                abci.ExecTxResult(
                    code=item.code,
                    log=item.log,
                    events=_events(item.events),
                    codespace=_codespace(item),
                )
                for item in result.results
            ],
            app_hash=app_hash,
        )

    def _commit(self, request: abci.RequestCommit) -> abci.ResponseCommit:
        self._application.commit()
        self._metrics.height.set(self._application.head.height)
        return abci.ResponseCommit()

    def _list_snapshots(self, request: abci.RequestListSnapshots) -> abci.ResponseListSnapshots:
        return abci.ResponseListSnapshots()

    def _offer_snapshot(self, request: abci.RequestOfferSnapshot) -> abci.ResponseOfferSnapshot:
        return abci.ResponseOfferSnapshot(result=abci.ResponseOfferSnapshot.REJECT)

    def _load_snapshot_chunk(
        self, request: abci.RequestLoadSnapshotChunk
    ) -> abci.ResponseLoadSnapshotChunk:
        return abci.ResponseLoadSnapshotChunk()

    def _apply_snapshot_chunk(
        self, request: abci.RequestApplySnapshotChunk
    ) -> abci.ResponseApplySnapshotChunk:
        return abci.ResponseApplySnapshotChunk(result=abci.ResponseApplySnapshotChunk.ABORT)


def _powers(validators: Iterable[abci.ValidatorUpdate]) -> dict[bytes, int]:
    return {validator.pub_key.ed25519: validator.power for validator in validators}


def _codespace(result: TransactionResult) -> str:
    return "" if result.code is Code.OK else "planetserve"


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
