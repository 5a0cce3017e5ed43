"""`AsyncClient`: questions in, answers out; paths, retries and signatures in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from overlay.client import OverlayClient, PathSettings
from overlay.directory import Directory
from planetserve.client.answer import DEFAULT_SYSTEM, Answer, Prompt, request_body
from planetserve.errors import (
    AnswerCutShort,
    EngineError,
    NodeUnreachable,
    NotEnoughRoutes,
    PlanetServeError,
    RemoteProtocolError,
    RequestFailed,
)
from planetserve.keys import NodeId
from planetserve.ledger import LedgerClient
from planetserve.messages import (
    Accepted,
    Delta,
    End,
    Failed,
    ReplyParser,
    RequestPayload,
    verify_reply,
)
from planetserve.network import Network, load_network
from planetserve.records import NodeRecord, RouteSet

MAX_ATTEMPTS = 4
ELSEWHERE_CODES = ("overloaded", "not_serving", "node_lost", "engine_failed")
"""Failures of one model node that another may not share."""


class AsyncClient:
    """Asks over the overlay. Use as an async context manager, or `connect` and `close`.

    `network` is a `Network`, the path of a network file, or None to look for one.
    """

    def __init__(
        self, network: Network | Path | str | None = None, paths: PathSettings | None = None
    ) -> None:
        if not isinstance(network, Network):
            network = load_network(Path(network) if network is not None else None)
        self.network = network
        self._ledger = LedgerClient(network)
        self._directory = Directory(self._ledger)
        self._path_settings = paths
        self._overlay: OverlayClient | None = None
        self._avoid: set[bytes] = set()
        self._connecting = asyncio.Lock()
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
        await self.close()

    async def connect(self) -> None:
        """Read the route set and build the paths, so that the first question need not wait.

        Raises `NetworkNotFound`, `NotEnoughRoutes` or `PathsUnavailable`.
        """
        async with self._connecting:
            if self._overlay is None:
                await self._directory.refresh()
                self._directory.follow()
                self._overlay = OverlayClient(self._directory, self._path_settings)
        await self._overlay.ensure_paths()

    async def close(self) -> None:
        if self._overlay is not None:
            await self._overlay.close()
            self._overlay = None
        await self._directory.close()
        await self._ledger.close()

    async def routes(self) -> RouteSet:
        """The newest route set, read now."""
        return await self._directory.refresh()

    async def ask(self, prompt: Prompt, **options: Any) -> Answer:
        """The whole answer to `prompt`; see `stream` for options and errors."""
        stream = self.stream(prompt, **options)
        async for _ in stream:
            pass
        return stream.answer

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
    ) -> AnswerStream:
        """An answer piece by piece: `async for text in client.stream(...)`.

        `prompt` is a question, before which `system` is put, or the turns of a conversation.
        `prefer` is the id of a node whose cache holds the earlier turns; `node` asks that one
        node and no other, whatever its standing, which is what probers do.

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
        return AnswerStream(self, body, model or self.network.default_model, prefer, node)

    # What an AnswerStream needs of its client.

    async def _ready(self) -> tuple[OverlayClient, RouteSet]:
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
        healthy = [n for n in left if n.id not in self._avoid]
        return self._rng.choice(preferred or healthy or left)


class AnswerStream:
    """An answer under way. After the iteration ended by itself, `answer` holds it whole."""

    def __init__(
        self,
        client: AsyncClient,
        body: bytes,
        model: str,
        prefer: bytes | None,
        node: bytes | None,
    ) -> None:
        self._client = client
        self._body = body
        self._model = model
        self._prefer = prefer
        self._node = node
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
        while True:
            overlay, routes = await self._client._ready()
            target = self._target(routes, tried)
            tried.add(target.id)
            try:
                async with aclosing(self._events(overlay, target)) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            if first_token_s is None:
                                first_token_s = loop.time() - started_s
                            self._pieces.append(event.text)
                            yield event.text
                        elif isinstance(event, Failed):
                            self._raise_failure(event)
                        elif isinstance(event, End):
                            total_s = loop.time() - started_s
                            first_s = total_s if first_token_s is None else first_token_s
                            self._answer = self._finish(overlay, routes, event, first_s, total_s)
                if self._answer is not None:
                    self._client._avoid.discard(target.id)
                    return
                raise AnswerCutShort("the answer ended without its signature")
            except AnswerCutShort as error:
                if self._pieces or not self._may_retry(tried):
                    raise AnswerCutShort(str(error), "".join(self._pieces)) from error
            except (RequestFailed, RemoteProtocolError) as error:
                elsewhere = not isinstance(error, EngineError) or error.code in ELSEWHERE_CODES
                if self._pieces or not elsewhere or not self._may_retry(tried):
                    raise
            self._client._avoid.add(target.id)

    def _may_retry(self, tried: set[bytes]) -> bool:
        return self._node is None and len(tried) < MAX_ATTEMPTS

    def _target(self, routes: RouteSet, tried: set[bytes]) -> NodeRecord:
        if self._node is None:
            return self._client._choose(routes, self._model, self._prefer, tried)
        record = routes.find(self._node)
        if record is None or "model" not in record.roles:
            raise NotEnoughRoutes(f"the ledger lists no model node {self._node.hex()}")
        return record

    async def _events(
        self, overlay: OverlayClient, target: NodeRecord
    ) -> AsyncGenerator[Accepted | Delta | End | Failed, None]:
        wish = self._node or self._prefer
        payload = RequestPayload(self._body, NodeId(wish) if wish else None).encode()
        parser = ReplyParser()
        replies = overlay.request(target, payload)
        try:
            async for data in replies:
                for event in parser.feed(data):
                    yield event
        finally:
            await replies.aclose()

    def _raise_failure(self, event: Failed) -> None:
        hint = f"; try again in {event.retry_after_s} s" if event.retry_after_s else ""
        if self._pieces:
            raise AnswerCutShort(f"the model node failed: {event.message}", "".join(self._pieces))
        raise EngineError(
            event.code, f"the model node refused ({event.code}): {event.message}{hint}"
        )

    def _finish(
        self,
        overlay: OverlayClient,
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
        if self._node is None and not server.routable("model"):
            raise RemoteProtocolError(
                f"the answer came from {server.name}, which the ledger does not trust"
            )
        if self._node is not None and server.id != self._node:
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
            paths=tuple(tuple(path) for path in overlay.path_names()),
            request_body=self._body,
            signature=end.signature,
        )
