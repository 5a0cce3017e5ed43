"""A client's request to a model node through last relays that do as they like."""

from __future__ import annotations

from collections.abc import Callable

from overlay.core.answering import Route
from overlay.core.exchange import (
    ENDED,
    Done,
    EndStream,
    Exchange,
    ExchangeEffect,
    Failed,
    Give,
    OpenStream,
    Polluted,
    Silent,
)
from tests.overlay.door import Door, N

Relay = Callable[[bytes], bytes]


def honest(data: bytes) -> bytes:
    return data


class Asking:
    """`outwards[slot]` is what the relay of the slot makes of a stream, `back[slot]` of a chunk.

    `read` is the answer so far, `polluted` and `silent` are the slots that the client has named,
    and `ended` those whose stream the model node ended.
    """

    def __init__(
        self,
        door: Door,
        payload: bytes = b"question",
        outwards: dict[int, Relay] | None = None,
        back: dict[int, Relay] | None = None,
    ) -> None:
        self.door = door
        self.request = door.request(payload)
        self.asker = Exchange(self.request, range(N), self.door.entropy)
        self.outwards, self.back = outwards or {}, back or {}
        self.routes: dict[int, Route] = {}
        self.given: dict[Route, int] = {}
        self.read = b""
        self.polluted: set[int] = set()
        self.silent: set[int] = set()
        self.ended: set[int] = set()
        self.done = False
        self.failed: Failed | None = None
        for slot in range(N):
            self.take(self.asker.slot_open(slot, door.now_s))

    def take(self, effects: list[ExchangeEffect]) -> None:
        for effect in effects:
            match effect:
                case OpenStream(slot, data):
                    data = self.outwards.get(slot, honest)(data)
                    route = self.routes[slot] = self.door.stream(slot, data)
                    self.given[route] = 0
                case EndStream(slot):
                    self.door.end(self.routes.pop(slot))
                case Give(unread_bytes):
                    self.read += self.asker.read(unread_bytes)
                case Done():
                    self.done = True
                case Failed():
                    self.failed = effect
                case Polluted(slot):
                    self.polluted.add(slot)
                case Silent(slot):
                    self.silent.add(slot)

    def run(self, seconds: float) -> None:
        """Let time pass; what the model node sends arrives at once."""
        until_s = self.door.now_s + seconds
        while self.door.now_s < until_s and self.asker.state != ENDED:
            self.door.advance(0.05)
            for slot in range(N):
                self.bring(slot)
            self.take(self.asker.tick(self.door.now_s))

    def bring(self, slot: int) -> None:
        while (route := self.routes.get(slot)) is not None:
            arrived, now_s = self.door.arrived[route], self.door.now_s
            if self.given[route] < len(arrived):
                chunk = self.back.get(slot, honest)(arrived[self.given[route]])
                self.given[route] += 1
                self.take(self.asker.chunk_arrived(slot, chunk, now_s))
            elif route in self.door.ended:
                self.ended.add(slot)
                del self.routes[slot]
                self.take(self.asker.stream_ended(slot, self.door.ended[route], now_s))
            else:
                return
