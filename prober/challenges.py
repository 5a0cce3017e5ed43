"""One-use challenges that look like what users ask.

A prober's secret seed, the epoch, the node and a running number decide everything, so a challenge
can be made again for re-scoring but not foreseen by anyone without the seed. The pools below give
several billion different prompts; the numbers and names in each keep two of them apart even where
task and topic agree, so that replies cached from earlier challenges do not help.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

DOMAIN = b"planetserve/challenge/v1"
SEED_BYTES = 32
MAX_TOKENS = 24

SYSTEM = "You are a helpful assistant."
"""What the client puts before a lone question; a challenge without it would be known as one."""

TOPICS = (
    "volcanoes", "honey bees", "the Roman Empire", "photosynthesis", "sailing ships", "jazz music",
    "the human heart", "solar panels", "chess openings", "coral reefs", "steam engines",
    "the water cycle", "medieval castles", "black holes", "sourdough bread", "electric cars",
    "the French Revolution", "penguins", "earthquakes", "ancient Egypt", "vaccines", "bicycles",
    "the printing press", "desert plants", "thunderstorms", "sleep", "the Silk Road", "whales",
    "public libraries", "glaciers", "the stock market", "tea", "the periodic table", "rainforests",
    "lighthouses", "the Olympic Games", "migrating birds", "clay pottery", "the moon", "inflation",
    "computer viruses", "mushrooms", "the immune system", "railways", "oil painting", "gravity",
    "recycling", "the Great Wall of China", "wolves", "vitamins", "wind turbines", "opera",
    "dinosaurs", "the nervous system", "cheese making", "tides", "satellites", "the Vikings",
    "gardening", "magnets", "antibiotics", "comets", "the guitar", "rice farming",
)  # fmt: skip

PEOPLE = (
    "Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim",
    "Liam", "Maya", "Nils", "Olga", "Pablo", "Rosa", "Samir", "Tara", "Victor", "Wen", "Yuki",
)  # fmt: skip

GOODS = (
    "apples", "notebooks", "candles", "bricks", "eggs", "pencils", "tickets", "bottles of milk",
    "batteries", "tomatoes", "stamps", "chairs", "oranges", "boxes of tea", "light bulbs", "socks",
)  # fmt: skip

PLACES = (
    "Norway", "Japan", "Brazil", "Kenya", "Portugal", "Canada", "Vietnam", "Greece", "Iceland",
    "Peru", "Morocco", "New Zealand", "Poland", "Thailand", "Ireland", "Argentina", "Egypt",
    "Finland", "Mexico", "Nepal", "Scotland", "Turkey", "Chile", "Austria",
)  # fmt: skip

READERS = (
    "a curious child", "my grandmother", "a new student", "a busy manager", "a tourist",
    "a school class", "someone who has never heard of it", "a friend of mine", "my neighbour",
    "a beginner",
)  # fmt: skip

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip

TEMPLATES = (
    "Explain {topic} to {reader} in one sentence.",
    "I have to talk about {topic} for {number} minutes. How should I begin?",
    "What is the most surprising fact about {topic}? {person} asked me this today.",
    "Give {person} one reason to learn about {topic}.",
    "Write the first sentence of an article about {topic} for {reader}.",
    "Why do people find {topic} interesting? Answer for {reader}.",
    "My friend {person} thinks {topic} are boring. What can I tell them?",
    "Suggest a title for a book about {topic} and {topic2}.",
    "How are {topic} and {topic2} connected?",
    "Compare {topic} with {topic2} in one sentence.",
    "I am travelling to {place} for {number} days in {month}. What should I see first?",
    "What should {person} pack for {number} days in {place} in {month}?",
    "Name a dish from {place} that I could cook for {number} people.",
    "What is the weather like in {place} in {month}?",
    "Describe {place} to {reader} in one sentence.",
    "{person} has {number} {goods} and buys {number2} more. How many are there now?",
    "{person} sells {number} {goods} for {number2} dollars each. How much money is that?",
    "Write a short message in which {person} asks {person2} to buy {number} {goods}.",
    "Help me thank {person} for the {number} {goods}.",
    "Begin a story about {person}, who finds {number} {goods} in {place}.",
    "Write the first line of a poem about {topic} in {month}.",
    "{person} from {place} wants to know more about {topic}. Where should they start?",
    "Make up a quiz question about {topic} for {reader}.",
    "What did people in {place} once believe about {topic}?",
)


def challenge(seed: bytes, epoch: int, node: bytes, index: int, model: str) -> dict[str, Any]:
    """The OpenAI body of challenge `index` for `node` (20-byte id) in `epoch`.

    `seed` is the prober's secret of 32 bytes; whoever has it can make the challenge again.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a challenge seed has {SEED_BYTES} bytes")
    choose = _Choices(seed, epoch, node, index)
    first_topic, second_topic = choose.two_of(TOPICS)
    first_person, second_person = choose.two_of(PEOPLE)
    prompt = choose.one_of(TEMPLATES).format(
        topic=first_topic,
        topic2=second_topic,
        person=first_person,
        person2=second_person,
        place=choose.one_of(PLACES),
        goods=choose.one_of(GOODS),
        reader=choose.one_of(READERS),
        month=choose.one_of(MONTHS),
        number=3 + choose.below(60),
        number2=3 + choose.below(60),
    )
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": prompt},
        ],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "seed": choose.below(1 << 31),
    }


class _Choices:
    """A deterministic stream of choices: HMAC-SHA-256 of a counter under a key derived from the
    seed and the challenge's place, as HKDF-Expand does (RFC 5869)."""

    def __init__(self, seed: bytes, epoch: int, node: bytes, index: int) -> None:
        place = epoch.to_bytes(8, "big") + index.to_bytes(4, "big") + node
        self._key = hmac.digest(seed, DOMAIN + b"\0" + place, hashlib.sha256)
        self._counter = 0

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1; 128 bits make the bias of the remainder negligible."""
        self._counter += 1
        block = hmac.digest(self._key, self._counter.to_bytes(4, "big"), hashlib.sha256)
        return int.from_bytes(block[:16], "big") % limit

    def one_of(self, pool: Sequence[str]) -> str:
        return pool[self.below(len(pool))]

    def two_of(self, pool: Sequence[str]) -> tuple[str, str]:
        """Two different members."""
        first = self.below(len(pool))
        second = (first + 1 + self.below(len(pool) - 1)) % len(pool)
        return pool[first], pool[second]
