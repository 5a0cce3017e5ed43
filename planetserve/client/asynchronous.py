"""`AsyncClient`: questions in, answers out; paths, retries and signatures in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from overlay.client import OverlayClient, PathSettings, Request
from overlay.core.cover import TYPICAL, CoverSettings
from overlay.core.diversity import told
from overlay.directory import Directory
from overlay.guard_file import GuardFile, guard_file
from overlay.relaying import RelaySettings
from planetserve.client.answer import DEFAULT_SYSTEM, Answer, Prompt, request_body
from planetserve.client.conversation import Conversation
from planetserve.client.relaying import ClientRelay
from planetserve.errors import (
    AnswerCutShort,
    EngineError,
    NodeUnreachable,
    NotEnoughRoutes,
    PathsUnavailable,
    PlanetServeError,
    RemoteProtocolError,
    RequestFailed,
    UsageError,
)
from planetserve.keys import NodeId
from planetserve.ledger import LedgerClient
from planetserve.light.trust import TRUST_FOLDER
from planetserve.messages import (
    Accepted,
    Delta,
    End,
    Failed,
    ReplyParser,
    RequestPayload,
    verify_reply,
)
from planetserve.network import Network, find_network, load_network
from planetserve.records import NodeRecord, RouteSet

MAX_ATTEMPTS = 4
AVOID_S = 60.0
"""How long a model node that failed is asked only when there is no other."""
ELSEWHERE_CODES = ("overloaded", "not_serving", "node_lost", "engine_failed")
"""Failures of one model node that another may not share."""


class AsyncClient:
    """Asks over the overlay. Use as an async context manager, or `connect` and `close`.

    `network` is a `Network`, the path of a network file, or None to look for one. `cover` sends
    traffic that answers no question, at the cost that docs/paths.md tells. `state_dir` is where
    the first hops are kept from one run to the next; it is beside the network file if there is
    one, and a client without any chooses new ones each time, which is worse for its user.

    `relay` makes it relay for others while it runs: first hops see the same frames of its own
    questions as of those that it passes on, once a verifier has endorsed it and it is old enough
    to be chosen for others' first hop (`exposed`); docs/paths.md says what they can tell still.
    """

    def __init__(
        self,
        network: Network | Path | str | None = None,
        paths: PathSettings | None = None,
        *,
        cover: bool = False,
        state_dir: Path | None = None,
        relay: RelaySettings | None = None,
    ) -> None:
        if not isinstance(network, Network):
            file = find_network(Path(network) if network is not None else None)
            state_dir = state_dir or file.parent / TRUST_FOLDER
            network = load_network(file)
        self.network = network
        self._ledger = LedgerClient(network)
        self._directory = Directory(self._ledger)
        self._path_settings = paths
        self._cover = CoverSettings(TYPICAL) if cover else None
        self._state_dir = state_dir
        self._relay: ClientRelay | None = None
        if relay is not None:
            self._relay = ClientRelay(relay, self._ledger, self._directory)
        self._overlay: OverlayClient | None = None
        self._avoid: dict[bytes, float] = {}
        self._conversations = 0
        self._connecting = asyncio.Lock()
        self._closed = False
        self._rng = random.SystemRandom()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close(drain=error is None)

    async def connect(self) -> None:
        """Read the route set and build the paths, so that the first question need not wait.

        Raises `NetworkNotFound`, `NotEnoughRoutes` or `PathsUnavailable`.
        """
        self._check_open()
        async with self._connecting:
            if self._overlay is None:
                await self._directory.refresh()
                self._directory.follow()
                self._overlay = self._start()
        await self._overlay.ensure_paths()

    async def close(self, drain: bool = True) -> None:
        """Give up what is under way. `drain` waits for the padding after the last answer, so that
        nobody on the way sees where the answer ended."""
        self._closed = True
        if self._overlay is not None:
            await self._overlay.close(drain)
            self._overlay = None
        if self._relay is not None:
            await self._relay.close()
        await self._directory.close()
        await self._ledger.close()

    @property
    def exposed(self) -> str:
        """Why relaying does not hide its own questions from first hops yet, if it relays."""
        return "" if self._relay is None else self._relay.exposed

    async def routes(self) -> RouteSet:
        """The newest route set, read now."""
        self._check_open()
        return await self._directory.refresh()

    async def ask(self, prompt: Prompt, **options: Any) -> Answer:
        """The whole answer to `prompt`; see `stream` for options and errors."""
        stream = self.stream(prompt, **options)
        async for _ in stream:
            pass
        return stream.answer

    def conversation(self, system: str | None = DEFAULT_SYSTEM) -> Conversation:
        """Questions that follow each other. They share paths, which no other question uses, and
        go to the node whose cache holds the earlier turns."""
        self._conversations += 1
        return Conversation(self, self._conversations, system)

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        system: str | None = DEFAULT_SYSTEM,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | list[str] | None = None,
        prefer: bytes | None = None,
        node: bytes | None = None,
        conversation: int | None = None,
        finished: Callable[[Answer], None] | None = None,
    ) -> AnswerStream:
        """An answer piece by piece: `async for text in client.stream(...)`.

        `prompt` is a question, before which `system` is put, or the turns of a conversation.
        `prefer` is the id of a node whose cache holds the earlier turns; `node` asks that one
        node and no other, whatever its standing, which is what probers do. A question is a
        conversation of its own unless `conversation` numbers one, as `Conversation` does;
        `finished` is called with the whole answer.

        The iteration raises `BadRequest` for parameters that no node takes, `NotEnoughRoutes`,
        `PathsUnavailable`, `NodeUnreachable` or `EngineError` when there is no answer, and
        `AnswerCutShort`, which holds the text so far, when it stops in the middle.
        """
        body = request_body(
            prompt,
            model or self.network.default_model,
            system,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
        )
        wish = Wish(model or self.network.default_model, prefer, node, conversation)
        return AnswerStream(self, body, wish, finished)

    # What an AnswerStream and a Conversation need of their client.

    async def _ready(self) -> tuple[OverlayClient, RouteSet]:
        self._check_open()
        if self._overlay is None:
            await self.connect()
        assert self._overlay is not None
        routes = self._directory.current
        assert routes is not None
        return self._overlay, routes

    def _choose(
        self, routes: RouteSet, model: str, prefer: bytes | None, tried: set[bytes]
    ) -> NodeRecord:
        """An entry node that was not tried: the preferred one, else any of the group."""
        nodes = routes.model_nodes(model)
        if not nodes:
            known = sorted({n.model for n in routes.model_nodes()})
            raise NotEnoughRoutes(
                f"no trusted node serves {model}; the network serves: {', '.join(known) or 'none'}"
            )
        left = [n for n in nodes if n.id not in tried]
        if not left:
            raise NodeUnreachable(f"none of the {len(nodes)} nodes that serve {model} answered")
        preferred = [n for n in left if n.id == prefer]
        now_s = asyncio.get_running_loop().time()
        healthy = [n for n in left if self._avoid.get(n.id, 0.0) <= now_s]
        return self._rng.choice(preferred or healthy or left)

    def _failed(self, target: bytes) -> None:
        now_s = asyncio.get_running_loop().time()
        self._avoid = {node: until for node, until in self._avoid.items() if until > now_s}
        self._avoid[target] = now_s + AVOID_S

    def _end_conversation(self, number: int) -> None:
        if self._overlay is not None:
            self._overlay.end_session(number)

    def _start(self) -> OverlayClient:
        settings, cover = self._path_settings, self._cover
        if self._relay is None:
            return OverlayClient(self._directory, settings, self._guard_file(), cover)
        node = self._relay.start()
        client = OverlayClient(
            self._directory, settings, self._guard_file(), cover, node.links, node.id
        )
        node.share(client)
        return client

    def _guard_file(self) -> GuardFile | None:
        """A network that is made anew under its old name is another one: its genesis tells."""
        if self._state_dir is None:
            return None
        name = f"{self.network.chain_id}/{self.network.genesis_hash}"
        return GuardFile(guard_file(self._state_dir, name), name)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this client is closed")


@dataclass(frozen=True, slots=True)
class Wish:
    """Who is to answer, and in which conversation; see `AsyncClient.stream`."""

    model: str
    prefer: bytes | None
    node: bytes | None
    conversation: int | None


class AnswerStream:
    """An answer under way. After the iteration ended by itself, `answer` holds it whole."""

    def __init__(
        self,
        client: AsyncClient,
        body: bytes,
        wish: Wish,
        finished: Callable[[Answer], None] | None,
    ) -> None:
        self._client = client
        self._body = body
        self._wish = wish
        self._finished = finished
        self._pieces: list[str] = []
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """Raises `PlanetServeError` while the answer is not complete."""
        if self._answer is None:
            raise PlanetServeError("the answer is not complete: iterate the stream to its end")
        return self._answer

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        first_token_s: float | None = None
        tried: set[bytes] = set()
        lost_paths = 0
        while True:
            overlay, routes = await self._client._ready()
            target = self._target(routes, tried)
            tried.add(target.id)
            request = self._request(overlay, target)
            end: End | None = None
            try:
                async with aclosing(request), aclosing(_events(request)) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            if first_token_s is None:
                                first_token_s = loop.time() - started_s
                            self._pieces.append(event.text)
                            yield event.text
                        elif isinstance(event, Failed):
                            self._raise_failure(event)
                        elif isinstance(event, End):
                            end = event
                if end is None:
                    raise AnswerCutShort("the answer ended without its signature")
                total_s = loop.time() - started_s
                first_s = total_s if first_token_s is None else first_token_s
                self._answer = self._finish(request, routes, end, first_s, total_s)
                self._client._avoid.pop(target.id, None)
                if self._finished is not None:
                    self._finished(self._answer)
                return
            except PathsUnavailable:  # which says nothing of the model node
                lost_paths += 1
                if lost_paths > 1:
                    raise
                tried.discard(target.id)
                continue
            except AnswerCutShort as error:
                if self._pieces or not self._may_retry(routes, tried):
                    raise AnswerCutShort(str(error), "".join(self._pieces)) from error
            except (RequestFailed, RemoteProtocolError) as error:
                elsewhere = not isinstance(error, EngineError) or error.code in ELSEWHERE_CODES
                if self._pieces or not elsewhere or not self._may_retry(routes, tried):
                    raise
            self._client._failed(target.id)

    def _may_retry(self, routes: RouteSet, tried: set[bytes]) -> bool:
        left = any(node.id not in tried for node in routes.model_nodes(self._wish.model))
        return self._wish.node is None and left and len(tried) < MAX_ATTEMPTS

    def _target(self, routes: RouteSet, tried: set[bytes]) -> NodeRecord:
        wish = self._wish
        if wish.node is None:
            return self._client._choose(routes, wish.model, wish.prefer, tried)
        record = routes.find(wish.node)
        if record is None or "model" not in record.roles:
            raise NotEnoughRoutes(f"the ledger lists no model node {wish.node.hex()}")
        return record

    def _request(self, overlay: OverlayClient, target: NodeRecord) -> Request:
        name = self._wish.node or self._wish.prefer
        payload = RequestPayload(self._body, NodeId(name) if name else None).encode()
        return overlay.request(target, payload, self._wish.conversation)

    def _raise_failure(self, event: Failed) -> None:
        hint = f"; try again in {event.retry_after_s} s" if event.retry_after_s else ""
        if self._pieces:
            raise AnswerCutShort(f"the model node failed: {event.message}", "".join(self._pieces))
        raise EngineError(
            event.code, f"the model node refused ({event.code}): {event.message}{hint}"
        )

    def _finish(
        self,
        request: Request,
        routes: RouteSet,
        end: End,
        first_token_s: float,
        total_s: float,
    ) -> Answer:
        text = "".join(self._pieces)
        server = routes.find(end.node)
        chain_id = self._client.network.chain_id
        if server is None or not verify_reply(server.key, chain_id, self._body, text, end):
            raise RemoteProtocolError("the answer is not signed by a node of the ledger")
        if self._wish.node is None and not server.routable("model"):
            raise RemoteProtocolError(
                f"the answer came from {server.name}, which the ledger does not trust"
            )
        if self._wish.node is not None and server.id != self._wish.node:
            raise NodeUnreachable("the node that was asked passed the question on to another")
        return Answer(
            text=text,
            model=end.model,
            node=server.name,
            node_id=server.id,
            finish_reason=end.finish_reason,
            usage=end.usage,
            first_token_s=first_token_s,
            total_s=total_s,
            route_height=routes.height,
            route_hash=routes.hash.hex(),
            paths=tuple(tuple(relay.name for relay in hops.relays) for hops in request.paths),
            request_body=self._body,
            signature=end.signature,
            relaxed=tuple(
                f"path {number}: {rule}"
                for number, hops in enumerate(request.paths, 1)
                for rule in told(hops.relaxed)
            ),
        )


async def _events(request: Request) -> AsyncGenerator[Accepted | Delta | End | Failed, None]:
    parser = ReplyParser()
    async for data in request:
        for event in parser.feed(data):
            yield event
