"""Conversations with shared system prompts: whose prefix is drawn by Zipf's law, whose arrivals are
a Poisson process, and whose next turn comes some time after the last reply."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LoadSettings:
    prompts: int = 60
    zipf: float = 1.1
    system_words: tuple[int, int] = (100, 300)
    question_words: tuple[int, int] = (40, 200)
    turns: tuple[int, int] = (1, 3)
    think_s: float = 2.0
    reply_tokens: int = 40


@dataclass(slots=True)
class Conversation:
    """`turns` questions; `messages` grow by a question and a reply each."""

    number: int
    questions: list[str]
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self) -> list[dict[str, str]]:
        self.messages.append({"role": "user", "content": self.questions.pop(0)})
        return list(self.messages)

    def answered(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    @property
    def over(self) -> bool:
        return not self.questions


class Conversations:
    """Draws conversations from `seed`."""

    def __init__(self, settings: LoadSettings, seed: int) -> None:
        self._rng = random.Random(seed)
        self._settings = settings
        self._systems = [self._text(settings.system_words) for _ in range(settings.prompts)]
        self._weights = [1 / rank**settings.zipf for rank in range(1, settings.prompts + 1)]
        self._count = 0

    def arrivals(self, rate_per_s: float, seconds: float) -> Iterator[tuple[float, Conversation]]:
        """When each conversation begins, in seconds; `rate_per_s` counts requests, not
        conversations."""
        low, high = self._settings.turns
        mean_turns = (low + high) / 2
        now_s = 0.0
        while True:
            now_s += self._rng.expovariate(rate_per_s / mean_turns)
            if now_s > seconds:
                return
            yield now_s, self._draw()

    def think_s(self) -> float:
        return self._rng.expovariate(1 / self._settings.think_s)

    def _draw(self) -> Conversation:
        (system,) = self._rng.choices(self._systems, self._weights)
        turns = self._rng.randint(*self._settings.turns)
        self._count += 1
        questions = [self._text(self._settings.question_words) for _ in range(turns)]
        return Conversation(self._count, questions, [{"role": "system", "content": system}])

    def _text(self, words: tuple[int, int]) -> str:
        count = self._rng.randint(*words)
        return " ".join(f"{self._rng.getrandbits(32):08x}" for _ in range(count))
