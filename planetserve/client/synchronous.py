"""`Client`: `AsyncClient` on a loop of its own thread, for programs without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from overlay.client import PathSettings
from overlay.relaying import RelaySettings
from planetserve.client.answer import DEFAULT_SYSTEM, Answer, Prompt
from planetserve.client.asynchronous import AnswerStream, AsyncClient
from planetserve.client.conversation import Conversation
from planetserve.errors import UsageError
from planetserve.network import Network

T = TypeVar("T")


class Client:
    """Asks over the overlay. Use as a context manager; see `AsyncClient` for what calls do."""

    def __init__(
        self,
        network: Network | Path | str | None = None,
        paths: PathSettings | None = None,
        *,
        cover: bool = False,
        state_dir: Path | None = None,
        relay: RelaySettings | None = None,
    ) -> None:
        self._client = AsyncClient(network, paths, cover=cover, state_dir=state_dir, relay=relay)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="planetserve client", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        try:
            self._run(self._client.connect())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(drain=error is None)

    def ask(self, prompt: Prompt, **options: Any) -> Answer:
        """The whole answer to `prompt`; options and errors as in `AsyncClient.stream`."""
        return self._run(self._client.ask(prompt, **options))

    def stream(self, prompt: Prompt, **options: Any) -> SyncAnswerStream:
        """An answer piece by piece: `for text in client.stream(...)`."""
        return SyncAnswerStream(self, self._client.stream(prompt, **options))

    def conversation(self, system: str | None = DEFAULT_SYSTEM) -> SyncConversation:
        """Questions that follow each other, over paths of their own."""
        return SyncConversation(self, self._client.conversation(system))

    @property
    def exposed(self) -> str:
        """See `AsyncClient.exposed`."""
        return self._client.exposed

    def close(self, drain: bool = True) -> None:
        """See `AsyncClient.close`."""
        if self._thread.is_alive():
            try:
                self._run(self._client.close(drain))
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise UsageError("this client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class SyncConversation:
    """`Conversation` for programs without a loop; use as a context manager, or `close` it."""

    def __init__(self, client: Client, conversation: Conversation) -> None:
        self._client = client
        self._conversation = conversation

    @property
    def turns(self) -> list[dict[str, str]]:
        return self._conversation.turns

    def ask(self, question: str, **options: Any) -> Answer:
        return self._client._run(self._conversation.ask(question, **options))

    def stream(self, question: str, **options: Any) -> SyncAnswerStream:
        return SyncAnswerStream(self._client, self._conversation.stream(question, **options))

    def close(self) -> None:
        async def closing() -> None:
            self._conversation.close()

        self._client._run(closing())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SyncAnswerStream:
    """An answer under way; `answer` holds it whole after the iteration ended by itself."""

    def __init__(self, client: Client, stream: AnswerStream) -> None:
        self._client = client
        self._stream = stream

    @property
    def answer(self) -> Answer:
        return self._stream.answer

    def __iter__(self) -> Iterator[str]:
        pieces = aiter(self._stream)

        async def following() -> str | None:
            return await anext(pieces, None)

        async def leave() -> None:
            await pieces.aclose()

        try:
            while (piece := self._client._run(following())) is not None:
                yield piece
        finally:
            self._client._run(leave())
