"""What this node's own engine holds: entered with each request that it is given, told to the peers,
and forgotten when the engine shows that it has begun anew."""

from __future__ import annotations

from modelnode.gossip import Gossip
from modelnode.routing import Prompt, Router
from planetserve.chat import ChatRequest
from planetserve.messages import Usage

EMPTY_AFTER = 2
"""So many replies in a row that found nothing of what should have been there: one may have met an
engine that had to make room."""
MIN_CLAIMED_TOKENS = 64


class OwnCache:
    def __init__(self, router: Router, gossip: Gossip) -> None:
        self._router = router
        self._gossip = gossip
        self._missed = 0

    def begun(self, request: ChatRequest) -> Served:
        return Served(self, self._router, request)

    def hold(self, prompt: Prompt, *, whole: bool) -> None:
        """`whole`: the reply is in it."""
        path = prompt.chain.path
        self._router.hold(path)
        self._gossip.hold(path, whole=whole)

    def saw(self, claimed_tokens: int, cached_tokens: int) -> None:
        """A reply said what it found in the cache."""
        if claimed_tokens < MIN_CLAIMED_TOKENS:
            return
        self._missed = 0 if cached_tokens else self._missed + 1
        if self._missed >= EMPTY_AFTER:
            self._missed = 0
            self._router.emptied(self._router.own)
            self._gossip.emptied()


class Served:
    """One request at this node's engine. `uncached_tokens` of its prompt are to be computed."""

    def __init__(self, cache: OwnCache, router: Router, request: ChatRequest) -> None:
        self._cache = cache
        self._prompt = router.prompt(request)
        self._claimed_tokens = router.cached_here(self._prompt)
        self.uncached_tokens = max(self._prompt.tokens - self._claimed_tokens, 1)
        cache.hold(self._prompt, whole=False)

    def ended(self, text: str, usage: Usage) -> None:
        """The whole reply was given."""
        self._cache.saw(self._claimed_tokens, usage.cached_tokens)
        self._prompt.answered(text)
        self._cache.hold(self._prompt, whole=True)
