"""Every result code from a real node: CometBFT takes what is sent, the ledger refuses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from abci_app.core.codes import MEANINGS, Code
from abci_app.home import (
    FounderEntry,
    ModelEntry,
    VerifierEntry,
    make_genesis,
    public_key_of,
    write_home,
)
from planetserve import transactions, vrf
from planetserve.assignment import is_assigned
from planetserve.encoding import encode
from planetserve.errors import NetworkNotFound
from planetserve.keys import Identity
from planetserve.ledger import LedgerClient
from planetserve.messages import Usage, sign_reply, state_reply
from planetserve.records import ChainStatus
from planetserve.rpc import Rpc, to_base64
from planetserve.scoring.parameters import Parameters
from planetserve.statekeys import reputation_key
from planetserve.transactions import (
    COMMIT,
    ENDORSE,
    EVIDENCE,
    MAX_TRANSACTION_BYTES,
    MODEL,
    PROPOSE,
    REGISTER,
    RETIRE,
    REVEAL,
    REVOKE,
    ROTATE,
    UPDATE,
    VOTE,
    sign_transaction,
)
from tests.network.localnetwork import free_base_port
from tests.network.validators import (
    CHAIN_ID,
    MODEL_NAME,
    PORTS_EACH,
    Chain,
    Validator,
    consensus_seed,
    fresh_epoch,
    make_chain,
    node_seed,
    person,
    registration,
    score_of,
    until_height,
)

PARAMETERS = {
    "epoch_blocks": 24,
    "commit_blocks": 12,
    "probers_per_node": 1,
    "max_commits_per_epoch": 2,
    "max_endorsements_per_epoch": 4,
    "max_candidates": 2,
    "max_models_per_verifier": 1,
    "max_open_proposals": 1,
}
ELSEWHERE = {Code.NOT_CHECKED}
"""Takes a fault inside the program: `tests/abci_app/test_handlers.py`."""

# The first runs and holds more than 2/3 of the power; the others are keys that act.
A, B, C, D = VERIFIERS = tuple(person(number) for number in range(1, 5))
FOUNDER, SECOND = person(10), person(11)
RELAY, RETIREE, STRANGER = person(12), person(13), person(14)
CROWD = tuple(person(number) for number in range(20, 40))
EVERYTHING = encode({"keys": [], "stores": ["routes"]})
FULL_BELOW_PPM = Parameters().full_below_ppm
TAU = {"kind": "parameter", "name": "abnormal_below_ppm", "value": 450_000}


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    validator = Validator(tmp_path, 1, free_base_port(PORTS_EACH))
    genesis = make_genesis(
        CHAIN_ID,
        datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        [
            VerifierEntry(
                f"verifier-{number}",
                identity.public_key,
                identity.onion_public,
                identity.transport_public,
                public_key_of(consensus_seed(number)),
                power=100 if identity is A else 10,
            )
            for number, identity in enumerate(VERIFIERS, start=1)
        ],
        PARAMETERS,
        models=[ModelEntry(MODEL_NAME, b"w" * 32, "Q4_1", 2048, deterministic=True)],
        founders=[FounderEntry(identity.public_key, "model") for identity in (FOUNDER, SECOND)],
    )
    write_home(
        validator.home,
        genesis=genesis,
        moniker="verifier-1",
        consensus_seed=consensus_seed(1),
        node_seed=node_seed(1),
        p2p=validator.p2p,
        rpc=validator.rpc,
        block_interval_s=0.3,
        local=True,
    )
    made = Chain(tmp_path, genesis, [validator], 0.3)
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Sender:
    """Sends to one node's RPC and notes which codes came back."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._nonces: dict[bytes, int] = {}
        self.seen: dict[Code, str] = {}

    async def raw(self, raw: bytes) -> Code:
        result = await self._rpc.call("broadcast_tx_sync", tx=to_base64(raw))
        return self._note(int(result["code"]), str(result["log"]))

    async def send(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> Code:
        nonce = self._nonces.get(identity.id, 0)
        code = await self.raw(sign_transaction(identity, CHAIN_ID, nonce, kind, data))
        if code is Code.OK:
            self._nonces[identity.id] = nonce + 1
        return code

    async def succeed(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> None:
        code = await self.send(identity, kind, data)
        assert code is Code.OK, (kind, self.seen[code])

    async def refused(
        self, code: Code, identity: Identity, kind: str, data: Mapping[str, Any]
    ) -> None:
        got = await self.send(identity, kind, data)
        assert got is code, (code, self.seen[got])

    async def query(self, path: str, data: bytes) -> Code:
        answer = await self._rpc.call(
            "abci_query", path=path, data=data.hex(), height="0", prove=False
        )
        response = answer["response"]
        return self._note(int(response["code"]), str(response["log"]))

    def _note(self, number: int, log: str) -> Code:
        code = Code(number)
        assert code is Code.OK or log.startswith(MEANINGS[code]), (code, log)
        self.seen[code] = log
        return code


@asynccontextmanager
async def sender_to(validator: Validator) -> AsyncIterator[Sender]:
    rpc = Rpc([validator.address])
    try:
        yield Sender(rpc)
    finally:
        await rpc.close()


async def test_every_code_comes_from_a_real_node(
    chain: Chain, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with LedgerClient(chain.network) as ledger, sender_to(chain.validators[0]) as sender:
        await fresh_epoch(ledger)
        await malformed_transactions(sender)
        await nodes_and_credentials(sender)
        await proposals_and_models(sender, ledger)
        await scores(sender, ledger)
        await evidence(sender)
        await queries(sender)
        seen = set(sender.seen)
    waiting = tmp_path_factory.mktemp("waiting")
    seen |= await before_the_first_block(waiting)
    assert seen == set(Code) - ELSEWHERE


async def malformed_transactions(sender: Sender) -> None:
    data = registration(RELAY, "relay", "relay")
    assert await sender.raw(b"\x80") is Code.MALFORMED
    assert await sender.raw(bytes(MAX_TRANSACTION_BYTES + 1)) is Code.TOO_LARGE
    of_another_chain = sign_transaction(RELAY, "another", 0, REGISTER, data)
    assert await sender.raw(of_another_chain) is Code.BAD_SIGNATURE
    assert await sender.raw(sign_transaction(RELAY, CHAIN_ID, 7, REGISTER, data)) is Code.BAD_NONCE
    await sender.refused(Code.UNKNOWN_KIND, RELAY, "mint", {})
    await sender.refused(Code.INVALID_FIELD, RELAY, REGISTER, {})


async def nodes_and_credentials(sender: Sender) -> None:
    """All that is endorsed here is within one epoch, the first part of it at least."""
    relay = registration(RELAY, "relay", "relay")
    for identity in (FOUNDER, SECOND):
        await sender.succeed(identity, REGISTER, registration(identity, "founder", "model"))
    await sender.refused(Code.UNKNOWN_NODE, STRANGER, UPDATE, relay)
    for target in (RELAY, RETIREE):
        data = transactions.endorse(node=target.id, role="relay", expires=9_999)
        await sender.succeed(A, ENDORSE, data)
    for identity in (RELAY, RETIREE):
        await sender.succeed(identity, REGISTER, registration(identity, "relay", "relay"))
    await included(sender, RELAY)
    await sender.refused(Code.ALREADY_REGISTERED, RELAY, REGISTER, relay)
    await sender.succeed(RETIREE, RETIRE, transactions.retire())
    retired = registration(RETIREE, "relay", "relay")
    await sender.refused(Code.NODE_RETIRED, RETIREE, UPDATE, retired)
    stranger = registration(STRANGER, "stranger", "relay")
    taken = {**stranger, "onion_key": RELAY.onion_public}
    await sender.refused(Code.KEY_IN_USE, STRANGER, REGISTER, taken)
    weak = {**stranger, "onion_key": bytes(32)}
    await sender.refused(Code.WEAK_KEY, STRANGER, REGISTER, weak)
    unknown = {**registration(STRANGER, "stranger", "model"), "model": "nobody's"}
    await sender.refused(Code.UNKNOWN_MODEL, STRANGER, REGISTER, unknown)
    to_a_verifier = transactions.rotate(CHAIN_ID, RELAY.public_key, A)
    await sender.refused(Code.ROTATION_REFUSED, RELAY, ROTATE, to_a_verifier)

    endorsement = transactions.endorse(node=RELAY.id, role="relay", expires=9_999)
    await sender.refused(Code.NOT_A_VERIFIER, RELAY, ENDORSE, endorsement)
    as_user = {**endorsement, "role": "user"}
    await sender.refused(Code.ROLE_NOT_ANNOUNCED, A, ENDORSE, as_user)
    await sender.refused(Code.EXPIRY_OUT_OF_RANGE, A, ENDORSE, {**endorsement, "expires": 1})
    revocation = transactions.revoke(node=RELAY.id, role="relay")
    await sender.refused(Code.NO_CREDENTIAL, B, REVOKE, revocation)
    await repeated(sender, Code.ENDORSEMENT_LIMIT, C, ENDORSE, endorsement)

    # The crowd is never endorsed: some of it waits for a block, then too much waits for verifiers.
    for place, identity in enumerate(CROWD):
        data = registration(identity, f"crowd-{place}", "relay")
        code = await sender.send(identity, REGISTER, data)
        if code is Code.TOO_MANY_CANDIDATES:
            break
        if Code.SENDER_LIMIT not in sender.seen:
            await sender.send(identity, UPDATE, data)
    assert Code.TOO_MANY_CANDIDATES in sender.seen


async def proposals_and_models(sender: Sender, ledger: LedgerClient) -> None:
    await sender.refused(Code.MODEL_EXISTS, A, MODEL, model_data(MODEL_NAME))
    await sender.succeed(A, MODEL, model_data("second"))
    await sender.refused(Code.MODEL_LIMIT, A, MODEL, model_data("third"))

    yes = transactions.vote(proposal=1, approve=True)
    await sender.refused(Code.UNKNOWN_PROPOSAL, A, VOTE, yes)
    nobody = {"kind": "leave", "verifier": bytes(20)}
    await sender.refused(Code.BAD_CHANGE, A, PROPOSE, transactions.propose(change=nobody))
    await sender.succeed(B, PROPOSE, transactions.propose(change=TAU))
    await sender.refused(Code.ALREADY_VOTED, B, VOTE, yes)
    another = transactions.propose(change={**TAU, "value": 460_000})
    await sender.refused(Code.TOO_MANY_PROPOSALS, B, PROPOSE, another)
    await sender.succeed(A, VOTE, yes)
    await until_height(ledger, (await ledger.status()).height + 4)
    await sender.refused(Code.PROPOSAL_CLOSED, D, VOTE, yes)


async def scores(sender: Sender, ledger: LedgerClient) -> None:
    """Two epochs: in the first the founder earns a reputation and B leaves a commitment unopened;
    in the second B is benched and a prober that was not drawn scores the founder."""
    status = await fresh_epoch(ledger, after=(await ledger.status()).epoch)
    score = score_of(A, status, FOUNDER, 900_000)
    second = score_of(A, status, SECOND, 900_000)
    early = {**commitment(A, score), "epoch": status.epoch + 5}
    await sender.refused(Code.WRONG_EPOCH, A, COMMIT, early)
    await sender.refused(Code.WINDOW_CLOSED, A, REVEAL, score)
    await sender.succeed(A, COMMIT, commitment(A, score))
    await sender.refused(Code.ALREADY_COMMITTED, A, COMMIT, commitment(A, score))
    await sender.succeed(A, COMMIT, commitment(A, second))
    await sender.refused(Code.COMMIT_LIMIT, A, COMMIT, commitment(A, second))
    await sender.succeed(B, COMMIT, commitment(B, score_of(B, status, FOUNDER, 1)))
    await until_height(ledger, status.commit_end)
    await sender.refused(Code.NO_COMMITMENT, A, REVEAL, {**score, "score_ppm": 900_001})
    foreign = score_of(B, status, FOUNDER, 1)["proof"]
    await sender.refused(Code.BAD_VRF_PROOF, A, REVEAL, {**score, "proof": foreign})
    await sender.succeed(A, REVEAL, score)
    await sender.refused(Code.ALREADY_REVEALED, A, REVEAL, score)
    await sender.succeed(A, REVEAL, second)

    status = await fresh_epoch(ledger, after=status.epoch)
    record = (await ledger.read((reputation_key(FOUNDER.id),))).records
    assert record[reputation_key(FOUNDER.id)]["ppm"] >= FULL_BELOW_PPM
    await sender.refused(Code.BENCHED, B, COMMIT, commitment(B, score_of(B, status, FOUNDER, 1)))
    while (prober := left_out(status)) is None:
        status = await fresh_epoch(ledger, after=status.epoch)
    score = score_of(prober, status, FOUNDER, 900_000)
    await sender.succeed(prober, COMMIT, commitment(prober, score))
    await until_height(ledger, status.commit_end)
    await sender.refused(Code.NOT_ASSIGNED, prober, REVEAL, score)


def left_out(status: ChainStatus) -> Identity | None:
    """A prober whose ticket does not assign it the founder."""
    for prober in (A, C, D):
        output = vrf.output(score_of(prober, status, FOUNDER, 0)["proof"])
        if not is_assigned(output, FOUNDER.id, status.sample_ppm):
            return prober
    return None


async def evidence(sender: Sender) -> None:
    await sender.refused(Code.EVIDENCE_INVALID, A, EVIDENCE, conflict("same", "same"))
    await sender.succeed(A, EVIDENCE, conflict("one", "another"))
    await sender.refused(Code.EVIDENCE_KNOWN, C, EVIDENCE, conflict("one", "another"))


async def queries(sender: Sender) -> None:
    assert await sender.query("/nothing", b"") is Code.UNKNOWN_PATH
    assert await sender.query("/state", b"no form") is Code.BAD_ARGUMENT
    keys = [b"nodes/" + number.to_bytes(20, "big") for number in range(1_001)]
    asked = encode({"keys": keys, "stores": []})
    assert await sender.query("/state", asked) is Code.TOO_MUCH_ASKED
    assert await sender.query("/state", EVERYTHING) is Code.OK


async def before_the_first_block(folder: Path) -> set[Code]:
    """One of two validators alone decides nothing, and has nothing to show."""
    chain = make_chain(folder, 2)
    validator = chain.validators[0]
    try:
        validator.start(wait=False)
        async with sender_to(validator) as sender:
            for _ in range(600):
                # Until CometBFT serves its RPC.
                with contextlib.suppress(NetworkNotFound):
                    return {await sender.query("/state", EVERYTHING)}
                await asyncio.sleep(0.1)
        raise AssertionError(validator.output())
    finally:
        chain.stop()


async def included(sender: Sender, identity: Identity) -> None:
    """Wait until a key has an account: of a new key one transaction may wait for a block."""
    data = registration(identity, "again", "relay")
    for _ in range(100):
        if await sender.send(identity, UPDATE, data) is Code.OK:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no block holds the transaction")


async def repeated(
    sender: Sender, code: Code, identity: Identity, kind: str, data: Mapping[str, Any]
) -> None:
    """Send the same until it is refused; an epoch may end in between."""
    for _ in range(3 * PARAMETERS["max_endorsements_per_epoch"]):
        got = await sender.send(identity, kind, data)
        if got is code:
            return
        assert got is Code.OK, sender.seen[got]
    raise AssertionError(f"{code} did not come")


def commitment(prober: Identity, score: Mapping[str, Any]) -> dict[str, Any]:
    digest = transactions.score_commitment(CHAIN_ID, prober.public_key, score)
    return transactions.commit(epoch=score["epoch"], node=score["node"], commitment=digest)


def model_data(name: str) -> dict[str, Any]:
    return transactions.model(
        name=name,
        weights_digest=bytes(32),
        quantization="F16",
        context_tokens=8,
        deterministic=False,
    )


def conflict(*texts: str) -> dict[str, Any]:
    """Evidence that the founder has answered one greedy request with `texts`."""
    request = f'{{"model": "{MODEL_NAME}", "temperature": 0, "messages": []}}'.encode()
    replies = [state_reply(CHAIN_ID, request, t, "stop", MODEL_NAME, Usage(3, 2)) for t in texts]
    return transactions.evidence(
        accused=FOUNDER.id,
        key=FOUNDER.public_key,
        kind="conflict",
        request=request,
        statements=[
            {"statement": reply.encode(), "signature": sign_reply(FOUNDER, reply)}
            for reply in replies
        ],
    )
