"""The client library over an overlay in one loop, with a model node that signs what it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.client import PathSettings
from overlay.relaying import RelaySettings
from overlay.server import IncomingRequest
from planetserve import AsyncClient, Client
from planetserve.errors import EngineError, KeyInUseError, NetworkNotFound, UsageError
from planetserve.keys import NodeId
from planetserve.messages import (
    Accepted,
    Delta,
    End,
    Failed,
    Usage,
    decode_payload,
    encode_event,
    sign_reply,
    state_reply,
)
from planetserve.network import Network
from planetserve.records import RouteSet
from tests.overlay.conftest import Overlay, running_overlay, seeded_identity

NETWORK = Network("chain", "00" * 32, ("http://127.0.0.1:9",), "tiny")
SERVER = seeded_identity(200)


class Model:
    """What the model node is asked; it answers with the number of turns and the last one."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.preferred: list[bytes | None] = []
        self.failing = 0

    async def handle(self, request: IncomingRequest) -> None:
        payload = decode_payload(request.payload)
        turns = json.loads(payload.body)["messages"]
        self.asked.append(turns)
        self.preferred.append(payload.prefer)
        await request.write(encode_event(Accepted(SERVER.id)))
        if self.failing:
            self.failing -= 1
            await request.write(encode_event(Failed("overloaded", "not now", 1)))
            await request.finish()
            return
        text = f"{len(turns)}: {turns[-1]['content']}"
        usage = Usage(1, 1, 0)
        statement = state_reply(NETWORK.chain_id, payload.body, text, "stop", "tiny", usage)
        signature = sign_reply(SERVER, statement)
        await request.write(encode_event(Delta(text)))
        await request.write(encode_event(End(SERVER.id, "tiny", "stop", usage, signature)))
        await request.finish()


class Ledger:
    """Stands where a `LedgerClient` would."""

    def __init__(self, routes: RouteSet) -> None:
        self._routes = routes

    async def routes(self) -> RouteSet:
        return self._routes

    async def read(self, keys: Sequence[bytes]) -> None:
        raise NetworkNotFound("no server here")

    async def close(self) -> None:
        pass


@asynccontextmanager
async def network_of(
    model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch, relays: int = 24
) -> AsyncIterator[Overlay]:
    async with running_overlay(model.handle, relays, folder) as overlay:
        monkeypatch.setattr(
            "planetserve.client.asynchronous.LedgerClient", lambda _: Ledger(overlay.routes)
        )
        yield overlay


async def test_an_answer_names_its_paths_and_their_route_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        network_of(Model(), tmp_path, monkeypatch) as overlay,
        AsyncClient(NETWORK, PathSettings(keep_ahead=False)) as client,
    ):
        answer = await client.ask("hello", system=None)
    assert (answer.text, answer.node) == ("1: hello", "model-1")
    assert answer.route_hash == overlay.routes.hash.hex()
    names = [name for path in answer.paths for name in path]
    assert len(set(names)) == len(names) == 12
    assert answer.relaxed == ()


async def test_what_gave_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with network_of(Model(), tmp_path, monkeypatch) as overlay:
        one_operator = tuple(replace(node, operator="one") for node in overlay.routes.nodes)
        routes = replace(overlay.routes, nodes=one_operator)
        monkeypatch.setattr(
            "planetserve.client.asynchronous.LedgerClient", lambda _: Ledger(routes)
        )
        async with AsyncClient(NETWORK, PathSettings(keep_ahead=False)) as client:
            answer = await client.ask("hello")
    assert "path 1: its relays share an operator" in answer.relaxed
    assert "path 4: the last relay has the model node's operator" in answer.relaxed


async def test_a_conversation_keeps_its_turns_its_paths_and_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    async with network_of(model, tmp_path, monkeypatch), AsyncClient(NETWORK) as client:
        async with client.conversation(system="Be brief.") as conversation:
            first = await conversation.ask("My name is Ada.")
            second = await conversation.ask("What is my name?")
        lone = await client.ask("hello")
    assert [len(turns) for turns in model.asked] == [2, 4, 2]
    assert model.asked[1][2] == {"role": "assistant", "content": "2: My name is Ada."}
    assert model.preferred == [None, SERVER.id, None]
    assert first.paths == second.paths
    assert [path[1:] for path in lone.paths] != [path[1:] for path in first.paths]
    assert {path[0] for path in lone.paths} == {path[0] for path in first.paths}


async def test_an_answer_that_fails_leaves_no_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    async with (
        network_of(model, tmp_path, monkeypatch),
        AsyncClient(NETWORK, PathSettings(keep_ahead=False)) as client,
    ):
        conversation = client.conversation(system=None)
        model.failing = 1
        with pytest.raises(EngineError, match="not now"):
            await conversation.ask("one")
        assert conversation.turns == []
        assert (await conversation.ask("two")).text == "1: two"


async def test_a_node_that_failed_is_avoided_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network_of(Model(), tmp_path, monkeypatch) as overlay:
        client = AsyncClient(NETWORK)
        other = replace(overlay.target, id=NodeId(b"o" * 20))
        routes = replace(overlay.routes, nodes=(*overlay.routes.nodes, other))
        client._failed(other.id)
        chosen = {client._choose(routes, "tiny", None, set()).id for _ in range(40)}
        assert chosen == {overlay.target.id}
        monkeypatch.setattr("planetserve.client.asynchronous.AVOID_S", 0.0)
        client._failed(other.id)
        chosen = {client._choose(routes, "tiny", None, set()).id for _ in range(40)}
        assert chosen == {overlay.target.id, other.id}
        await client.close()


async def test_first_hops_are_kept_beside_the_network_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "network.toml"
    file.write_text(NETWORK.to_toml())
    firsts = []
    async with network_of(Model(), tmp_path, monkeypatch):
        for _ in range(2):
            async with AsyncClient(file, PathSettings(keep_ahead=False)) as client:
                answer = await client.ask("hello")
                firsts.append({path[0] for path in answer.paths})
    assert firsts[0] == firsts[1]
    (kept,) = (tmp_path / "trusted").glob("guards-*.json")
    assert kept.stat().st_mode & 0o077 == 0


async def test_a_client_relays_over_its_own_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = RelaySettings("127.0.0.1:0", tmp_path / "relay.key")
    settings = PathSettings(keep_ahead=False)
    async with network_of(Model(), tmp_path, monkeypatch):
        async with AsyncClient(NETWORK, settings, relay=relay) as client:
            assert (await client.ask("hello", system=None)).text == "1: hello"
            with pytest.raises(KeyInUseError):
                async with AsyncClient(NETWORK, settings, relay=relay):
                    pass
        async with AsyncClient(NETWORK, settings, relay=relay) as client:
            assert (await client.ask("again", system=None)).text == "1: again"


async def test_a_closed_client_says_so() -> None:
    client = AsyncClient(NETWORK)
    await client.close()
    for call in (client.ask("hi"), client.connect(), client.routes()):
        with pytest.raises(UsageError, match="this client is closed"):
            await call


def test_a_closed_synchronous_client_says_so() -> None:
    client = Client(NETWORK)
    client.close()
    client.close()
    with pytest.raises(UsageError, match="this client is closed"):
        client.ask("hi")
    with pytest.raises(UsageError, match="this client is closed"):
        next(iter(client.stream("hi")))
