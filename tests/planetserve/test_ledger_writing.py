"""`ps-ledger`'s transactions: what it sends, what it refuses to send, and what it then says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planetserve import transactions
from planetserve.errors import OldHeader
from planetserve.keys import Identity, read_identity, write_identity
from planetserve.ledger import LedgerClient
from planetserve.ledger_cli import conversation
from planetserve.light.proven import Proven
from planetserve.messages import Usage, sign_reply, state_reply
from planetserve.transactions import EVIDENCE, REVOKE, decode_transaction
from tests.abci_app.world import FOUNDER, VERIFIERS, World, participant
from tests.planetserve.ledger_servers import Chain, Server, Servers, clock, network_of
from tests.planetserve.ledger_views import (
    CHAIN,
    SUCCESSOR,
    WORLD,
    Command,
    Run,
    busy_world,
    chain_of_world,
)
from tests.planetserve.light_chain import CHAIN_ID as SERVED_CHAIN


class Writer:
    """Takes what is broadcast into the next block, and remembers it."""

    def __init__(self, chain: Chain, world: World = WORLD) -> None:
        self.chain = chain
        self.world = world
        self.sent: list[transactions.Transaction] = []

    def __call__(self, raw: bytes) -> int:
        self.sent.append(decode_transaction(raw))
        self.chain.extend(dict(self.world.items), [raw])
        self.chain.extend(dict(self.world.items))
        return 0


@pytest.fixture
def writing(command: Command, tmp_path: Path) -> tuple[Run, Writer, Path]:
    """A command line, what it sent, and the first verifier's key file."""
    chain = CHAIN.fork(CHAIN.height)
    run, servers = command(chain)
    writer = Writer(chain)
    for server in servers.by_address.values():
        server.broadcast = writer
    key = tmp_path / "verifier.key"
    write_identity(key, VERIFIERS[0])
    return run, writer, key


def test_endorse_and_revoke_also_unregistered_keys(writing: tuple[Run, Writer, Path]) -> None:
    run, writer, key = writing
    stranger = participant(90)
    options = ("--role", "relay", "--key", str(key))
    code, output, errors = run("endorse", stranger.public_key.hex(), *options)
    assert (code, errors) == (0, "")
    assert output.startswith(f"{stranger.id.hex()[:12]} is endorsed as relay from height ")
    assert writer.sent[-1].data["node"] == stranger.id
    code, output, _ = run("revoke", "relay-a", *options)
    assert (code, writer.sent[-1].kind) == (0, REVOKE)
    assert writer.sent[-1].data == {"node": SUCCESSOR.id, "role": "relay"}


def test_retire_and_rotate(writing: tuple[Run, Writer, Path], tmp_path: Path) -> None:
    run, writer, key = writing
    assert run("retire", "--key", str(key))[0] == 0
    assert (writer.sent[-1].kind, writer.sent[-1].data) == ("retire", {})
    new = tmp_path / "new.key"
    code, output, errors = run("rotate", "--key", str(key), "--new-key", str(new))
    assert (code, errors) == (0, "")
    assert f"made {new}" in output
    made = read_identity(new)
    old = read_identity(key)
    assert made.seed != old.seed
    assert (made.onion_secret, made.transport_secret) == (old.onion_secret, old.transport_secret)
    assert writer.sent[-1].data == transactions.rotate(SERVED_CHAIN, old.public_key, made)
    assert run("rotate", "--key", str(key), "--new-key", str(key))[0] == 2


def test_register_a_model(writing: tuple[Run, Writer, Path], tmp_path: Path) -> None:
    run, writer, key = writing
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"weights")
    options = ("--quantization", "Q8_0", "--context-tokens", "4096", "--key", str(key))
    code, _, errors = run("register-model", "new", "--weights", str(weights), *options)
    assert (code, errors) == (0, "")
    assert writer.sent[-1].data == {
        "name": "new",
        "weights_digest": hashlib.sha256(b"weights").digest(),
        "quantization": "Q8_0",
        "context_tokens": 4096,
        "deterministic": False,
    }
    assert run("register-model", "new", *options)[0] == 2
    assert run("register-model", "new", "--weights-digest", "12", *options)[0] == 2
    digest = ("--weights-digest", "ab" * 32)
    assert run("register-model", "new", *digest, *options)[0] == 0
    assert writer.sent[-1].data["weights_digest"] == bytes([0xAB] * 32)
    # Who calls a model deterministic lets nodes be convicted over it, which takes a vote.
    assert run("register-model", "new", *digest, "--deterministic", *options)[0] == 2


def test_a_vote_says_how_it_stands(writing: tuple[Run, Writer, Path]) -> None:
    run, writer, key = writing
    code, output, _ = run("vote", "1", "no", "--key", str(key))
    assert code == 0
    assert writer.sent[-1].data == {"proposal": 1, "approve": False}
    assert "it is open up to height" in output
    assert run("vote", "1", "perhaps", "--key", str(key))[0] == 2


def joiner_file(tmp_path: Path, joiner: Identity) -> Path:
    path = tmp_path / "joiner.json"
    path.write_text(
        json.dumps(
            {
                "name": "fifth",
                "prober_key": joiner.public_key.hex(),
                "onion_key": joiner.onion_public.hex(),
                "transport_key": joiner.transport_public.hex(),
                "consensus_key": "05" * 32,
            }
        )
    )
    return path


def test_proposals_of_every_kind(
    writing: tuple[Run, Writer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, writer, key = writing
    monkeypatch.setattr("planetserve.ledger_cli.proposing._number", first_proposal)
    joiner = participant(91)
    file = str(joiner_file(tmp_path, joiner))
    option = ("--key", str(key))
    for arguments, change in (
        (("parameter", "window_epochs", "7"), ("parameter", "window_epochs", 7)),
        (("leave", "verifier-2"), ("leave", bytes(VERIFIERS[2].id))),
        (("power", VERIFIERS[1].id.hex(), "12"), ("power", bytes(VERIFIERS[1].id), 12)),
        (("upgrade", "2", "5000"), ("upgrade", 2, 5000)),
        (("cancel", "2"), ("cancel", 2)),
        (("expel", "model-a"), ("expel", bytes(FOUNDER.id))),
    ):
        code, output, errors = run("propose", *arguments, *option)
        assert (code, errors) == (0, "")
        assert output.startswith("proposal 1 at height ")
        assert tuple(writer.sent[-1].data["change"][name] for name in order(change[0])) == change
    assert run("propose", "join", file, "--power", "10", *option)[0] == 0
    assert writer.sent[-1].data["change"] == {
        "kind": "join",
        "name": "fifth",
        "key": joiner.public_key,
        "consensus_key": bytes([5] * 32),
        "onion_key": joiner.onion_public,
        "transport_key": joiner.transport_public,
        "power": 10,
    }
    weights = ("--weights-digest", "cd" * 32, "--quantization", "F16", "--context-tokens", "99")
    assert run("propose", "model", "exact", *weights, "--deterministic", *option)[0] == 0
    assert writer.sent[-1].data["change"] == {
        "kind": "model",
        "name": "exact",
        "weights_digest": bytes([0xCD] * 32),
        "quantization": "F16",
        "context_tokens": 99,
        "deterministic": True,
    }
    sent = len(writer.sent)
    for wrong in (
        ("expel", "nobody"),
        ("model", "exact", "--quantization", "F16", "--context-tokens", "99"),
        ("parameter", "no_such", "7"),
        ("leave", "nobody"),
        ("join", file),
        ("join", str(tmp_path / "missing.json"), "--power", "1"),
    ):
        assert run("propose", *wrong, *option)[0] == 2
    assert len(writer.sent) == sent


async def first_proposal(*_: Any) -> int:
    return 1


def order(kind: str) -> tuple[str, ...]:
    return {
        "parameter": ("kind", "name", "value"),
        "leave": ("kind", "verifier"),
        "power": ("kind", "verifier", "power"),
        "upgrade": ("kind", "version", "height"),
        "cancel": ("kind", "version"),
        "expel": ("kind", "node"),
    }[kind]


def test_a_proposal_is_found_by_its_block(command: Command, tmp_path: Path) -> None:
    """With the ledger's own rules behind the broadcast, so that it has a number."""
    world = busy_world()
    chain = chain_of_world(world)
    run, servers = command(chain)

    def broadcast(raw: bytes) -> int:
        # The chain's heights run ahead of the world's by the blocks that prove.
        while world.height + 1 < chain.height + 1:
            world.block()
        signed = decode_transaction(raw)
        again = world.sign(VERIFIERS[1], signed.kind, signed.data)
        assert int(world.block(again).results[0].code) == 0
        chain.extend(dict(world.items), [raw])
        chain.extend(dict(world.items))
        return 0

    for server in servers.by_address.values():
        server.broadcast = broadcast
    key = tmp_path / "verifier.key"
    write_identity(key, VERIFIERS[1])
    code, output, errors = run("propose", "parameter", "window_epochs", "9", "--key", str(key))
    assert (code, errors) == (0, "")
    assert output.startswith("proposal 2 at height ")
    assert "power 10 yes, 0 no, 27 of 40 needed" in output


def transcript(text: str, request: str, signer: Identity = FOUNDER) -> dict[str, Any]:
    statement = state_reply(SERVED_CHAIN, request.encode(), text, "stop", "tiny", Usage(3, 2, 0))
    return {
        "epoch": 1,
        "node": signer.id.hex(),
        "request": request,
        "reply": text,
        "finish_reason": "stop",
        "model": "tiny",
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "cached_tokens": 0,
        "signature": sign_reply(signer, statement).hex(),
    }


def test_evidence_is_made_of_transcripts_and_judged_first(
    writing: tuple[Run, Writer, Path], tmp_path: Path
) -> None:
    run, writer, key = writing
    request = '{"model": "tiny", "temperature": 0, "messages": []}'
    file = tmp_path / "transcripts.jsonl"

    def submit(*items: dict[str, Any], more: tuple[str, ...] = ()) -> tuple[int, str, str]:
        file.write_text("\n".join(json.dumps(item) for item in items) + "\n")
        return run("evidence", str(file), "--key", str(key), *more)

    code, output, errors = submit(transcript("one", request), transcript("two", request))
    assert (code, errors) == (0, "")
    assert "model-a is convicted at height" in output
    assert writer.sent[-1].kind == EVIDENCE
    assert writer.sent[-1].data["accused"] == FOUNDER.id
    more = ("--signed-by", FOUNDER.public_key.hex())
    assert submit(transcript("one", request), transcript("two", request), more=more)[0] == 0

    sent = len(writer.sent)
    same = submit(transcript("one", request), transcript("one", request))
    assert same[0] == 2
    assert "this proves nothing, and nothing was sent: the two replies are the same" in same[2]
    assert submit(transcript("one", request))[0] == 2
    assert submit(transcript("one", request), transcript("two", request + " "))[0] == 2
    assert submit({**transcript("one", request), "signature": "zz"})[0] == 2
    assert submit({"node": FOUNDER.id.hex()})[0] == 2
    for content in ("", "[1]", "{", "{}\n{}\n{}"):
        file.write_text(content)
        assert run("evidence", str(file), "--key", str(key))[0] == 2
    assert run("evidence", str(tmp_path / "none"), "--key", str(key))[0] == 2
    assert len(writer.sent) == sent


class Lagging(LedgerClient):
    """Its servers are one block further with each read."""

    reads = 0

    async def read(self, keys: Any = (), stores: Any = ()) -> Proven:
        proven = await super().read(keys, stores)
        self.reads += 1
        return replace(proven, height=self.reads)


async def test_a_server_that_lags_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "CATCH_UP_S", 0.0)
    servers = Servers(one=Server(CHAIN))
    async with Lagging(network_of(servers), now_ns=clock(CHAIN), rpc=servers) as ledger:
        assert (await conversation.read_from(ledger, 3)).height == 3
        with pytest.raises(OldHeader, match="try again"):
            await conversation.read_from(ledger, 1_000)
