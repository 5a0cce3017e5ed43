"""Questions that follow each other: their turns, their paths, the node that knows them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from planetserve.client.answer import Answer

if TYPE_CHECKING:
    from planetserve.client.asynchronous import AnswerStream, AsyncClient


class Conversation:
    """Made by `AsyncClient.conversation`; ask one question at a time, and `close` it in the end.

    `turns` are those so far, in OpenAI's form. A question whose answer is cut short leaves none.
    """

    def __init__(self, client: AsyncClient, number: int, system: str | None) -> None:
        self.turns: list[dict[str, str]] = []
        if system:
            self.turns.append({"role": "system", "content": system})
        self._client = client
        self._number = number
        self._node: bytes | None = None

    async def ask(self, question: str, **options: Any) -> Answer:
        """The whole answer to the next question; options and errors as in `AsyncClient.stream`."""
        stream = self.stream(question, **options)
        async for _ in stream:
            pass
        return stream.answer

    def stream(self, question: str, **options: Any) -> AnswerStream:
        """The answer to the next question piece by piece."""
        turns = [*self.turns, {"role": "user", "content": question}]

        def finished(answer: Answer) -> None:
            self.turns = [*turns, {"role": "assistant", "content": answer.text}]
            self._node = answer.node_id

        options.setdefault("prefer", self._node)
        return self._client.stream(turns, conversation=self._number, finished=finished, **options)

    def close(self) -> None:
        """Let go of the paths."""
        self._client._end_conversation(self._number)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
