"""Which node of a group serves a request: the least loaded one, counted when it is chosen.

A node's load is what it last reported of others' requests plus what we have sent it and not had
back, so that a burst between two reports is not sent to one node. Pure bookkeeping: no clock, no
I/O; the shell reports loads and says who is a trusted member.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from planetserve.keys import NodeId


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """Requests that a node says run and wait, and how many it can run at once."""

    running: int
    waiting: int
    capacity: int


@dataclass(slots=True)
class _Member:
    """`reported` is None until the node has said anything; `ours` of the requests in its figure
    are from us, in whose place we count those that we `assigned` and that have not ended: what a
    node says of its load never makes ours less."""

    reported: NodeLoad | None = None
    assigned: int = 0
    ours: int = 0

    @property
    def load(self) -> int:
        known = self.reported.running + self.reported.waiting if self.reported else 0
        return max(known - self.ours, 0) + self.assigned

    @property
    def overloaded(self) -> bool:
        """Whether a new request would wait behind more than one round of others."""
        return self.reported is not None and self.load >= 2 * self.reported.capacity


class Balancer:
    """The nodes that may serve a request that came to `own`."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._members: dict[NodeId, _Member] = {}
        self._departed: dict[NodeId, _Member] = {}

    def set_members(self, members: Iterable[NodeId]) -> None:
        """The trusted nodes of our model, `own` among them if it is trusted. Requests under way
        at a node that is gone still count should it come back before they end."""
        known = self._departed | self._members
        self._members = {node: known.get(node) or _Member() for node in members}
        self._departed = {
            node: member
            for node, member in known.items()
            if node not in self._members and member.assigned
        }

    def report(self, node: NodeId, load: NodeLoad, ours: int = 0) -> None:
        """A node's own word about its load; ignored from a node that is no member. `ours` of the
        requests in it are from us."""
        member = self._members.get(node)
        if member is not None:
            member.reported = load
            member.ours = ours

    def assigned(self, node: NodeId) -> int:
        """Requests that we assigned to `node` and that have not ended."""
        member = self._members.get(node) or self._departed.get(node)
        return member.assigned if member else 0

    def forget(self, node: NodeId) -> None:
        """`node` cannot be reached: it is not chosen until it reports again."""
        member = self._members.get(node)
        if member is not None:
            member.reported = None
            member.ours = 0

    def load(self, node: NodeId) -> int:
        member = self._members.get(node)
        return member.load if member else 0

    def members(self) -> tuple[NodeId, ...]:
        return tuple(self._members)

    def choose(
        self, prefer: NodeId | None = None, excluded: Collection[NodeId] = ()
    ) -> NodeId | None:
        """The node for a request, None when all are excluded.

        `prefer` is taken unless it is overloaded, untrusted or unknown. An entry that is asked
        for by name serves even while it is loaded or not trusted: its engine says when it is
        full, and probes must reach it. Else the least loaded of those that have reported; own
        wins a tie, then the smaller id.
        """
        if prefer == self._own and prefer not in excluded:
            return prefer
        usable = {
            node: member
            for node, member in self._members.items()
            if node not in excluded and (member.reported is not None or node == self._own)
        }
        if prefer in usable and not usable[prefer].overloaded:
            return prefer
        if usable:
            return min(usable, key=lambda node: (usable[node].load, node != self._own, node))
        return None if self._own in excluded else self._own

    @contextmanager
    def assignment(self, node: NodeId) -> Iterator[None]:
        """Counts a request at `node` from its choice until the block is left, however."""
        member = self._members.get(node) or self._departed.get(node)
        if member is None:
            member = self._departed[node] = _Member()
        member.assigned += 1
        try:
            yield
        finally:
            member.assigned -= 1
            if self._departed.get(node) is member and not member.assigned:
                del self._departed[node]
