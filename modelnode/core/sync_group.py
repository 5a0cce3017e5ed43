"""One node's part in the sync of its group: its log, and a reader for each peer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from modelnode.core.chunks import Path, Scheme
from modelnode.core.sync import MALFORMED, Effect, Fault, Holds, Reader, Send
from modelnode.core.sync_log import Log
from modelnode.core.sync_messages import Ask, Lack, Paths, decode_sync, encode_sync
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId

MAX_PATHS_BYTES = 64 << 10


@dataclass(slots=True)
class SyncCounts:
    """Bytes and messages of sync, sent and received."""

    sent_bytes: int = 0
    sent: int = 0
    received_bytes: int = 0
    received: int = 0


class GroupSync:
    """`peers` are the nodes whose word is heard; no other has a table here."""

    def __init__(self, log: Log, model: str, scheme: Scheme) -> None:
        self.log = log
        self.counts = SyncCounts()
        self._model, self._scheme = model, scheme
        self.readers: dict[NodeId, Reader] = {}

    def set_peers(self, peers: Collection[NodeId], now_s: float) -> None:
        self.readers = {
            peer: self.readers.get(peer)
            or Reader(peer, self._model, self._scheme, now_s, self._find)
            for peer in peers
        }

    def messages(self, now_s: float) -> list[bytes]:
        """What each peer gets now, in this order; asked a few times in `sync_log.DELAY_S`."""
        return [self._count(data, len(self.readers)) for data in self.log.messages(now_s)]

    def connected(self, peer: NodeId, now_s: float) -> list[Effect]:
        """A connection to `peer` stands. Like `receive`."""
        reader = self.readers.get(peer)
        return [] if reader is None else self._counted(reader.connected(now_s))

    def receive(self, peer: NodeId, data: bytes, now_s: float) -> list[Effect]:
        """What `peer`'s message makes: `Send` goes back to it. Whoever puts what it says into the
        tree calls `charge` then. Never raises for what a peer sent."""
        reader = self.readers.get(peer)
        if reader is None:
            return []
        self.counts.received_bytes += len(data)
        self.counts.received += 1
        try:
            message = decode_sync(data)
        except RemoteProtocolError:
            return [Fault(MALFORMED)]
        if isinstance(message, Ask):
            return self._counted([Send(part) for part in self.log.answer(peer, message, now_s)])
        if isinstance(message, Lack):
            return self._counted(self._paths(message) if reader.may_lack(now_s) else [])
        effects = self._counted(reader.receive(message, data, now_s))
        for effect in effects:
            if isinstance(effect, Holds):
                self.log.heard(effect.node, effect.path, now_s)
        return effects

    def charge(self, peer: NodeId, work: int, now_s: float) -> None:
        """Count `HRTree.work` that the peer's effects made."""
        reader = self.readers.get(peer)
        if reader is not None:
            reader.charge(work, now_s)

    def _find(self, identifier: bytes) -> Path | None:
        path = self.log.path(identifier)
        if path is None:
            told = (reader.path(identifier) for reader in self.readers.values())
            path = next((path for path in told if path is not None), None)
        return path

    def _paths(self, lack: Lack) -> list[Effect]:
        found = [path for path in map(self._find, lack.ids) if path is not None]
        while sum(map(len, found)) > MAX_PATHS_BYTES:
            found.pop()
        return [Send(encode_sync(Paths(tuple(found))))] if found else []

    def _counted(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Send):
                self._count(effect.data, 1)
        return effects

    def _count(self, data: bytes, receivers: int) -> bytes:
        self.counts.sent += receivers
        self.counts.sent_bytes += len(data) * receivers
        return data
