"""What an entry node knows of each node of its group, and what it has sent there.

A node reports its queue; between two reports the entry adds what it has sent since. Each report
says how many of this entry's requests it holds, so that those which were on the way when it was
made, the newest, are counted too. Load is counted when a node is chosen and given back when the
assignment ends, however it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from planetserve.keys import NodeId

MAX_TRACKED = 4096
"""Assignments of one node that are kept apart; beyond it only their number counts."""


@dataclass(frozen=True, slots=True)
class Report:
    """A node's own word about its engine.

    `queued_tokens` are prompt tokens that wait for their prefill, less what is in the cache;
    `prefill_us` and `decode_us` what a token takes, in microseconds, as it measured; `hold_ms`
    how long a request keeps its slot; `yours` how many of the requests are the reader's own;
    `cache_tokens` what its cache holds at most, 0 where that is not known. While it is not
    `serving`, as when the engine's process is started again, every request fails.
    """

    running: int
    waiting: int
    capacity: int
    queued_tokens: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    hold_ms: int = 0
    yours: int = 0
    cache_tokens: int = 0
    serving: bool = True


@dataclass(slots=True, eq=False)
class _Sent:
    """One request under way, and what it adds until it is reported."""

    uncached_tokens: int


@dataclass(slots=True)
class Member:
    """One node of the group. `report` is None until the node has said anything."""

    report: Report | None = None
    reported_s: float = 0.0
    rtt_ms: float = 0.0
    assigned: int = 0
    unreported_tokens: int = 0
    """Uncached prompt tokens of what we sent and the last report does not hold."""
    _open: deque[_Sent] = field(default_factory=deque)

    def heard(self, report: Report, now_s: float) -> None:
        self.report = report
        self.reported_s = now_s
        under_way = max(self.assigned - report.yours, 0)
        while len(self._open) > under_way:
            self.unreported_tokens -= self._open.popleft().uncached_tokens

    def running(self) -> int:
        """Requests there now, as far as known."""
        known = self.report.running + self.report.waiting if self.report else 0
        return known + len(self._open)

    def queued_ms(self, now_s: float) -> float:
        """How long a prompt that came now would wait for its prefill."""
        if self.report is None:
            return 0.0
        reported_ms = self.report.queued_tokens * self.report.prefill_us / 1_000
        worked_off_ms = (now_s - self.reported_s) * 1_000
        return (
            max(reported_ms - worked_off_ms, 0.0)
            + self.unreported_tokens * self.report.prefill_us / 1_000
        )

    def _send(self, uncached_tokens: int) -> _Sent:
        self.assigned += 1
        sent = _Sent(uncached_tokens)
        if len(self._open) < MAX_TRACKED:
            self._open.append(sent)
            self.unreported_tokens += uncached_tokens
        return sent

    def _end(self, sent: _Sent) -> None:
        self.assigned -= 1
        if sent in self._open:
            self._open.remove(sent)
            self.unreported_tokens -= sent.uncached_tokens

    def lost(self) -> None:
        """The connection broke, and what was under way with it."""
        self.report = None
        self.unreported_tokens = 0
        self._open.clear()


class Loads:
    """The nodes that may serve; those that left while requests run there are kept until these end,
    so that nothing is lost when they come back."""

    def __init__(self) -> None:
        self._members: dict[NodeId, Member] = {}
        self.ordered: tuple[NodeId, ...] = ()
        self._departed: dict[NodeId, Member] = {}

    def replace(self, nodes: Iterable[NodeId]) -> None:
        known = self._departed | self._members
        self._members = {node: known.get(node) or Member() for node in nodes}
        self.ordered = tuple(self._members)
        self._departed = {
            node: member
            for node, member in known.items()
            if node not in self._members and member.assigned
        }

    def __contains__(self, node: NodeId) -> bool:
        return node in self._members

    def __len__(self) -> int:
        return len(self._members)

    def get(self, node: NodeId) -> Member | None:
        return self._members.get(node)

    def items(self) -> Iterable[tuple[NodeId, Member]]:
        return self._members.items()

    def assigned(self, node: NodeId) -> int:
        member = self._members.get(node) or self._departed.get(node)
        return member.assigned if member else 0

    @contextmanager
    def assignment(self, node: NodeId, uncached_tokens: int) -> Iterator[None]:
        """Counts a request at `node` until the block is left."""
        member = self._members.get(node) or self._departed.get(node)
        if member is None:
            member = self._departed[node] = Member()
        sent = member._send(uncached_tokens)
        try:
            yield
        finally:
            member._end(sent)
            if self._departed.get(node) is member and not member.assigned:
                del self._departed[node]
