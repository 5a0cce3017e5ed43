"""An engine with a prefix cache, as a model: blocks in LRU order, prefill one prompt at a time,
decode of each reply at a fixed pace. Time is an argument, so that it runs in a simulation and
behind HTTP alike.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

BYTES_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`cache_tokens` bounds what is kept; the times are what a token takes."""

    block_tokens: int = 16
    cache_tokens: int = 40_000
    prefill_us: float = 500.0
    decode_us: float = 3_000.0


@dataclass(frozen=True, slots=True)
class Served:
    """When the first token leaves and when the last, in seconds, and what the cache held."""

    first_s: float
    last_s: float
    prompt_tokens: int
    cached_tokens: int


class EngineModel:
    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._blocks: OrderedDict[bytes, None] = OrderedDict()
        self._free_s = 0.0
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def serve(self, prompt: bytes, reply: bytes, now_s: float) -> Served:
        """Take in one request that came at `now_s`; its reply is in the cache afterwards."""
        settings = self._settings
        prompt_tokens = max(len(prompt) // BYTES_A_TOKEN, 1)
        blocks = self._hashes(prompt + reply)
        whole = prompt_tokens // settings.block_tokens
        cached = 0
        while cached < whole and blocks[cached] in self._blocks:
            cached += 1
        # At least one token is computed, or there would be nothing to sample from.
        cached_tokens = min(cached * settings.block_tokens, prompt_tokens - 1)
        begin_s = max(now_s, self._free_s)
        self._free_s = begin_s + (prompt_tokens - cached_tokens) * settings.prefill_us / 1e6
        reply_tokens = max(len(reply) // BYTES_A_TOKEN, 1)
        self._keep(blocks)
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        first_s = self._free_s + settings.decode_us / 1e6
        last_s = self._free_s + reply_tokens * settings.decode_us / 1e6
        return Served(first_s, last_s, prompt_tokens, cached_tokens)

    def restart(self) -> None:
        """Forget the cache, as a process does that starts anew."""
        self._blocks.clear()

    def _hashes(self, text: bytes) -> list[bytes]:
        size = self._settings.block_tokens * BYTES_A_TOKEN
        hashes = []
        parent = b""
        for start in range(0, len(text) - size + 1, size):
            parent = blake2b(parent + text[start : start + size], digest_size=8).digest()
            hashes.append(parent)
        return hashes

    def _keep(self, blocks: list[bytes]) -> None:
        """The deepest block first, so that what is evicted first is no block's parent."""
        for block in reversed(blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        room = self._settings.cache_tokens // self._settings.block_tokens
        while len(self._blocks) > room:
            self._blocks.popitem(last=False)
