"""What an entry node knows of its group and makes of it: the HR-tree, loads, claims, and the choice
of a node for each request. No sockets: `modelnode.group` tells it what peers say and is asked
where a request goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from modelnode.core.choosing import Ask, Choice, choose
from modelnode.core.chunks import FINGERPRINT_BYTES, Chain, Path, Scheme, render
from modelnode.core.claims import Claims
from modelnode.core.holdings import Holdings
from modelnode.core.hr_tree import HRTree
from modelnode.core.load import Loads, Member, Report
from modelnode.question import Question
from planetserve.chat import ChatRequest, Message
from planetserve.keys import NodeId
from planetserve.messages import Usage

CHOICES_KEPT = 256
KEY_CHUNKS = 4
"""Of a prompt's beginning decide where prompts go that no node holds anything of."""
BYTES_A_TOKEN = 4.0
"""Of English, until replies have told; a weighted mean of what they tell afterwards."""
RATIO_SHARE = 0.02


@dataclass(slots=True)
class Prompt:
    """A prompt, later with its reply, as chunks; `tokens` are an estimate of the prompt's."""

    chain: Chain
    tokens: int

    def answered(self, text: str) -> None:
        """The reply is in the cache too, as the next turn will begin."""
        self.chain.extend(render([Message("assistant", text)]))


@dataclass(slots=True)
class Route:
    """A request on its way: its prompt, what was chosen for it and why."""

    prompt: Prompt
    path: Path
    max_tokens: int
    prefer: NodeId | None
    choice: Choice | None = None
    chosen_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Explained:
    """A choice as the operator sees it."""

    at_s: float
    route: Route
    choice: Choice


@dataclass(slots=True)
class _Indices:
    """Small numbers for nodes, as the tree wants them."""

    numbers: dict[NodeId, int] = field(default_factory=dict)
    nodes: list[NodeId] = field(default_factory=list)
    _free: list[int] = field(default_factory=list)

    def of(self, node: NodeId) -> int:
        number = self.numbers.get(node)
        if number is None and self._free:
            number = self.numbers[node] = self._free.pop()
            self.nodes[number] = node
        elif number is None:
            number = self.numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return number

    def free(self, node: NodeId) -> None:
        """Nothing in the tree has the node's number any more."""
        self._free.append(self.numbers.pop(node))


class Router:
    """`own` is this node. `now_s` is a monotonic clock, `draw(n)` a random integer below n, and
    `usable` says whether a node may be given new requests."""

    def __init__(
        self,
        own: NodeId,
        scheme: Scheme,
        tree: HRTree,
        now_s: Callable[[], float],
        draw: Callable[[int], int],
        usable: Callable[[NodeId], bool] = lambda node: True,
    ) -> None:
        self.own = own
        self._tree = tree
        self._now_s = now_s
        self._draw = draw
        self._usable = usable
        self._indices = _Indices()
        self._bytes_a_token = BYTES_A_TOKEN
        self.scheme = scheme
        self.members = Loads()
        self.claims = Claims()
        self.holdings = Holdings()
        self.choices: deque[Explained] = deque(maxlen=CHOICES_KEPT)

    def set_members(self, nodes: Collection[NodeId]) -> None:
        """The trusted nodes of our model. Who left is forgotten: its cache may be another's."""
        for node in set(self._indices.numbers) - set(nodes) - {self.own}:
            number = self._indices.of(node)
            self._tree.drop_owner(number)
            self._tree.drop_teller(number)
            self._indices.free(node)
        self.members.replace(nodes)
        self.claims.keep(frozenset(nodes))
        self.holdings.keep(frozenset(nodes))

    def heard(self, node: NodeId, report: Report) -> None:
        member = self.members.get(node)
        if member is None:
            return
        member.heard(report, self._now_s())
        if report.cache_tokens:
            chunk_tokens = self.scheme.chunk_bytes / self._bytes_a_token
            self.holdings.told(node, int(report.cache_tokens / chunk_tokens))

    def lost(self, node: NodeId) -> None:
        """The connection broke: nothing is known of the node until it speaks again."""
        member = self.members.get(node)
        if member is not None:
            member.lost()

    @property
    def work(self) -> int:
        """See `HRTree.work`."""
        return self._tree.work

    def emptied(self, node: NodeId) -> None:
        """The node's engine holds nothing any more."""
        self._tree.drop_owner(self._indices.of(node))

    def learn(self, node: NodeId, path: Path, teller: NodeId) -> None:
        """`teller` says that `node` holds `path`. Both must be members or this node itself."""
        if not path or not (self._knows(node) and self._knows(teller)):
            return
        owner = self._indices.of(node)
        self._tree.insert(path, owner, self._now_s(), self._indices.of(teller))
        limit = self.holdings.limit(node)
        if limit is not None and self._tree.owned_chunks(owner) > limit:
            self._tree.truncate(owner, limit)

    def prompt(self, request: ChatRequest) -> Prompt:
        rendered = render(request.messages)
        chain = Chain(self.scheme)
        chain.extend(rendered)
        return Prompt(chain, max(int(len(rendered) / self._bytes_a_token), 1))

    def cached_here(self, prompt: Prompt) -> int:
        """Tokens of a prompt that this node's engine is believed to hold."""
        chunks = self._tree.match(prompt.chain.path).get(self._indices.of(self.own), 0)
        return min(int(chunks * self.scheme.chunk_bytes / self._bytes_a_token), prompt.tokens)

    def hold(self, path: Path) -> None:
        """This node's engine holds `path` from now on."""
        self.learn(self.own, path, self.own)

    def route(self, question: Question) -> Route:
        """Begin with a request."""
        prompt = self.prompt(question.request)
        return Route(prompt, prompt.chain.path, question.request.max_tokens, question.prefer)

    def choose(self, route: Route, tried: Collection[NodeId]) -> Choice:
        """See `modelnode.core.choosing.choose`. What is chosen is registered at once, so that the
        next request with this prefix finds it."""
        matched = self._tree.match(route.path)
        chunk_tokens = self.scheme.chunk_bytes / self._bytes_a_token
        now_s = self._now_s()
        ask = Ask(
            prompt_tokens=route.prompt.tokens,
            max_tokens=route.max_tokens,
            key=route.path[: KEY_CHUNKS * FINGERPRINT_BYTES],
            cached_tokens={
                self._indices.nodes[owner]: int(chunks * chunk_tokens)
                for owner, chunks in matched.items()
            },
            prefer=route.prefer,
            excluded=tried,
        )
        choice = choose(
            self.members, self.claims, ask, self.own, now_s, self._may_serve, self._draw
        )
        route.choice, route.chosen_s = choice, now_s
        self.choices.append(Explained(now_s, route, choice))
        if choice.node is not None:
            self.learn(choice.node, route.path, self.own)
        return choice

    @contextmanager
    def assignment(self, route: Route) -> Iterator[None]:
        """Counts the request at the node that was chosen last until the block is left."""
        choice = route.choice
        if choice is None or choice.node is None:
            raise ValueError("no node was chosen for the request")
        tokens = choice.chosen.cost.uncached_tokens if choice.chosen else route.prompt.tokens
        with self.members.assignment(choice.node, tokens):
            yield

    def first_token(self, route: Route) -> None:
        """The reply's first text has come."""
        chosen = route.choice.chosen if route.choice else None
        if chosen is None:
            return
        now_s = self._now_s()
        observed_ms = (now_s - route.chosen_s) * 1_000
        self.claims.saw_first_token(chosen.node, chosen.cost.first_token_ms, observed_ms, now_s)

    def served(self, route: Route, text: str, usage: Usage) -> None:
        """The whole reply has come: what its node said was cached, and what it holds now."""
        choice = route.choice
        if choice is None or choice.node is None:
            return
        node = choice.node
        if choice.chosen is not None and choice.chosen.claimed_tokens:
            claimed = min(choice.chosen.claimed_tokens, usage.prompt_tokens)
            self.claims.saw_cached(node, claimed, usage.cached_tokens)
            held = self._tree.owned_chunks(self._indices.of(node))
            self.holdings.saw(node, claimed, usage.cached_tokens, held)
        self._learn_ratio(route, usage)
        route.prompt.answered(text)
        self.learn(node, route.prompt.chain.path, self.own)

    def _knows(self, node: NodeId) -> bool:
        return node == self.own or node in self.members

    def _may_serve(self, node: NodeId, member: Member) -> bool:
        serving = node == self.own if member.report is None else member.report.serving
        return serving and self._usable(node)

    def _learn_ratio(self, route: Route, usage: Usage) -> None:
        if usage.prompt_tokens > 0:
            ratio = route.prompt.tokens * self._bytes_a_token / usage.prompt_tokens
            self._bytes_a_token += RATIO_SHARE * (min(max(ratio, 1.0), 16.0) - self._bytes_a_token)


def explain(choices: Iterable[Explained], now_s: float) -> list[dict[str, object]]:
    """The newest first, for `/debug/choices`: no prompt, no path."""
    return [_explain(item, now_s) for item in reversed(tuple(choices))]


def _explain(item: Explained, now_s: float) -> dict[str, object]:
    return {
        "age_s": round(now_s - item.at_s, 3),
        "node": item.choice.node.hex() if item.choice.node else None,
        "why": item.choice.reason,
        "prompt_tokens": item.route.prompt.tokens,
        "max_tokens": item.route.max_tokens,
        "candidates": [
            {
                "node": candidate.node.hex(),
                "total_ms": round(candidate.cost.total_ms, 2),
                "claimed_tokens": candidate.claimed_tokens,
                **{name: round(value, 2) for name, value in candidate.cost._asdict().items()},
            }
            for candidate in item.choice.candidates
        ],
    }
