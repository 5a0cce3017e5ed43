"""A real validator behind a proxy that lies: every lie is found, and the next server answers."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from planetserve.encoding import decode, encode
from planetserve.errors import (
    ForgedHeader,
    ForkDetected,
    NetworkNotFound,
    OldHeader,
    PlanetServeError,
    RemoteProtocolError,
    TransactionRejected,
    WrongProof,
)
from planetserve.ledger import LedgerClient
from planetserve.light.blocks import Header
from planetserve.light.reading import light_block_json, read_signed_header
from planetserve.network import Network
from planetserve.rpc import Rpc
from planetserve.statekeys import CHAIN_KEY, account_key
from planetserve.transactions import ENDORSE, REGISTER, endorse
from tests.network.validators import (
    CHAIN_ID,
    Chain,
    consensus_seed,
    person,
    registration,
    running_chain,
)
from tests.planetserve.light_chain import sign, signers

Lie = Callable[[str, dict[str, Any], Any], Any]
TIMEOUT_S = 2.0
VERIFIER, RELAY = person(1), person(3)


class Proxy:
    """Forwards calls to a validator's RPC and changes the results."""

    def __init__(self, target: str) -> None:
        self.lie: Lie = lambda method, params, result: result
        self.encode: Callable[[Any], bytes] = lambda answer: json.dumps(answer).encode()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = urllib.request.Request(target, body)
                with urllib.request.urlopen(request, timeout=5) as response:
                    answer = json.load(response)
                if "result" in answer:
                    asked = json.loads(body)
                    answer["result"] = proxy.lie(asked["method"], asked["params"], answer["result"])
                content = proxy.encode(answer)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                # A reader that has waited long enough is gone.
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Keeps the test's output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    parameters = {"epoch_blocks": 12, "commit_blocks": 5}
    with running_chain(tmp_path_factory.mktemp("lying"), 1, parameters, 0.15) as made:
        made.wait_above(4)
        yield made


@pytest.fixture
def proxy(chain: Chain) -> Iterator[Proxy]:
    made = Proxy(chain.network.rpc[0])
    yield made
    made.close()


def reader(chain: Chain, *addresses: str, path: Path | None = None) -> LedgerClient:
    network: Network = replace(chain.network, rpc=addresses)
    return LedgerClient(network, path, rpc=Rpc(addresses, TIMEOUT_S))


def state_lie(change: Callable[[Any], None]) -> Lie:
    """The state's answer changed, in due form."""

    def lie(method: str, params: dict[str, Any], result: Any) -> Any:
        if method == "abci_query":
            response = result["response"]
            answer = decode(base64.b64decode(response["value"]))
            change(answer)
            response["value"] = base64.b64encode(encode(answer)).decode()
        return result

    return lie


def commit_lie(change: Callable[[Header], Header], seeds: dict[bytes, int] | None) -> Lie:
    """Later headers changed, and signed with `seeds` if there are any."""

    def lie(method: str, params: dict[str, Any], result: Any) -> Any:
        if method != "commit" or params.get("height") == "1":
            return result
        header, _ = read_signed_header(result["signed_header"])
        changed = change(header)
        if seeds is None:
            shown = result["signed_header"]["header"]
            return {
                "signed_header": {
                    **result["signed_header"],
                    "header": {**shown, "app_hash": changed.app_hash.hex().upper()},
                }
            }
        return {"signed_header": light_block_json(sign(changed, seeds))["signed_header"]}

    return lie


def forget_a_node(answer: Any) -> None:
    answer["stores"]["verifiers"].pop()


def invent_a_record(answer: Any) -> None:
    answer["records"][1]["value"] = encode({"nonce": 7})


def improve_a_record(answer: Any) -> None:
    answer["records"][0]["value"] = encode({**decode(answer["records"][0]["value"]), "version": 7})


def change_a_root(answer: Any) -> None:
    answer["roots"]["accounts"] = b"x" * 32


def another_app_hash(header: Header) -> Header:
    return replace(header, app_hash=bytes(32))


def of_strangers(header: Header) -> Header:
    strangers = sign(header, STRANGERS).validators.hash()
    return replace(header, validators_hash=strangers, next_validators_hash=strangers)


STRANGERS = signers(range(90, 94))


def huge(method: str, params: dict[str, Any], result: Any) -> Any:
    return "x" * (33 << 20) if method == "abci_query" else result


def slow(method: str, params: dict[str, Any], result: Any) -> Any:
    time.sleep(1.5 * TIMEOUT_S)
    return result


def stalled(method: str, params: dict[str, Any], result: Any) -> Any:
    if method == "abci_query":
        time.sleep(4 * TIMEOUT_S)
    return result


def other_form(method: str, params: dict[str, Any], result: Any) -> Any:
    return [method] if method == "abci_query" else result


LIES: dict[str, tuple[Lie, type[PlanetServeError]]] = {
    "a node left out": (state_lie(forget_a_node), WrongProof),
    "a record changed": (state_lie(improve_a_record), WrongProof),
    "a record invented": (state_lie(invent_a_record), WrongProof),
    "a root changed": (state_lie(change_a_root), WrongProof),
    "a header changed": (commit_lie(another_app_hash, None), ForgedHeader),
    "a header of strangers": (commit_lie(of_strangers, STRANGERS), ForgedHeader),
    "a huge answer": (huge, RemoteProtocolError),
    "a slow answer": (slow, NetworkNotFound),
    "an answer that never comes": (stalled, NetworkNotFound),
    "an answer of another form": (other_form, RemoteProtocolError),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_is_refused_and_the_next_server_asked(
    name: str, chain: Chain, proxy: Proxy
) -> None:
    proxy.lie, expected = LIES[name]
    keys, stores = (CHAIN_KEY, account_key(RELAY.id + b"!")), ("verifiers",)
    async with reader(chain, proxy.address) as ledger:
        with pytest.raises(expected):
            await ledger.read(keys, stores)
    async with reader(chain, proxy.address, *chain.network.rpc) as ledger:
        proven = await ledger.read(keys, stores)
    assert proven.records[CHAIN_KEY]["chain_id"] == CHAIN_ID
    assert proven.records[keys[1]] is None
    assert len(proven.stores["verifiers"]) == 1


async def test_old_answers_are_refused(
    chain: Chain, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that shows the chain as it was once."""
    kept: dict[str, Any] = {}

    def frozen(method: str, params: dict[str, Any], result: Any) -> Any:
        return kept.setdefault(f"{method} {params.get('height', '')}", result)

    proxy.lie = frozen
    async with reader(chain, proxy.address, *chain.network.rpc) as ledger:
        before = await ledger.read()
    monkeypatch.setattr("planetserve.light.client.MAX_AGE_S", 1)
    chain.wait_above(chain.height() + 15)
    async with reader(chain, proxy.address) as ledger:
        with pytest.raises(OldHeader):
            await ledger.read()
    async with reader(chain, proxy.address, *chain.network.rpc) as ledger:
        assert (await ledger.read()).height > before.height


async def test_a_forked_chain_is_detected(chain: Chain, proxy: Proxy) -> None:
    """The validator's own key signs a second header of the same height."""
    proxy.lie = commit_lie(another_app_hash, {consensus_seed(1): 10})
    async with reader(chain, *chain.network.rpc, proxy.address) as ledger:
        with pytest.raises(ForkDetected, match="both signed"):
            await ledger.read()
    async with reader(chain, proxy.address, *chain.network.rpc) as ledger:
        with pytest.raises(ForkDetected, match="both signed"):
            await ledger.read()


async def test_inclusion_and_codes_are_proven(chain: Chain, proxy: Proxy) -> None:
    def success(method: str, params: dict[str, Any], result: Any) -> Any:
        """Says that every transaction went well."""
        for item in (result.get("txs_results") or []) if method == "block_results" else []:
            item["code"] = 0
        return result

    proxy.lie = success
    async with reader(chain, proxy.address, *chain.network.rpc) as ledger:
        height = await ledger.send(RELAY, REGISTER, registration(RELAY, "relay-a", "relay"))
        assert RELAY.id in [node.id for node in await ledger.waiting()]
        data = endorse(node=RELAY.id, role="relay", expires=height + 1_000)
        height = await ledger.send(VERIFIER, ENDORSE, data)
        routes = await ledger.routes()
        assert routes.height >= height
        assert routes.find(RELAY.id) is not None
        with pytest.raises(TransactionRejected):
            await ledger.send(RELAY, ENDORSE, data)


async def test_a_second_start_goes_on_from_what_was_verified(chain: Chain, tmp_path: Path) -> None:
    path = tmp_path / "trusted.json"
    async with reader(chain, *chain.network.rpc, path=path) as ledger:
        first = await ledger.read()
    block = json.loads(path.read_text())["block"]
    header, _ = read_signed_header(block["signed_header"])
    assert header.height >= first.height + 1
    async with reader(chain, *chain.network.rpc, path=path) as ledger:
        assert (await ledger.read()).height >= first.height


GARBAGE = {
    "no JSON": b"<html>busy</html>",
    "not UTF-8": b"\xff\xfe" * 100,
    "nothing": b"",
    "another value": b"[1, 2]",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_refused_and_the_next_server_asked(
    name: str, chain: Chain, proxy: Proxy
) -> None:
    proxy.encode = lambda answer: GARBAGE[name]
    async with reader(chain, proxy.address) as ledger:
        with pytest.raises(RemoteProtocolError):
            await ledger.read()
    async with reader(chain, proxy.address, *chain.network.rpc) as ledger:
        assert (await ledger.read()).height
