"""The target `client_path`: an owner whose relays hold the keys and say anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from overlay.core import client_path
from overlay.core import payload as payloads
from overlay.core.client_path import (
    BUILDING,
    CLOSED,
    OPEN,
    Broken,
    Chunk,
    ClientPath,
    Opened,
    Pong,
    StreamOver,
)
from overlay.core.effects import Send
from overlay.core.layer import PAYLOAD_BYTES, originate, peel, seal_back
from overlay.core.payload import decode_payload
from overlay.core.reasons import read_close_body
from overlay.core.setup import HopKeys, HopSpec, period_of
from overlay.core.wire import BODY_BYTES, CELL, CLOSE, KINDS, Frame, decode_frame
from tests.fuzz.program import Program
from tests.fuzz.relay_target import SECRETS, START_S, TARGETS
from tests.overlay.world import pad

HOPS = (b"1" * 20, b"2" * 20, b"3" * 20)
MAX_STEPS = 200


@lru_cache(maxsize=1)
def _made() -> ClientPath:
    random = Random(1)
    specs = [HopSpec(node, SECRETS.public, random.randbytes(32)) for node in HOPS]
    nonces = [bytes(8) for _ in specs]
    path, _ = client_path.build(specs, period_of(START_S), nonces, random.randbytes)
    return path


@dataclass(eq=False)
class Scene:
    """The path, and what its last relay may expect of an owner that keeps to the rules."""

    path: ClientPath = field(init=False)
    keys: tuple[HopKeys, ...] = field(init=False)
    heard: int = 0
    """Cells from the owner."""
    credits: int = 0
    last: int = 0
    """The number of the stream that was opened last."""
    open: set[int] = field(default_factory=set)
    """Streams that the owner has begun, at the relay."""
    reading: set[int] = field(default_factory=set)
    """Streams that the owner has begun and neither ended nor heard the end of."""
    closes: int = 0
    breaks: int = 0

    def __post_init__(self) -> None:
        made = _made()
        self.keys = made._keys
        self.path = ClientPath(
            made.hops,
            made.first,
            made.forward_id,
            made.backward_id,
            made._keys,
            Random(2).randbytes,
        )

    def sent(self, sends: Sequence[Send]) -> None:
        for item in sends:
            link_id, kind, body = decode_frame(item.frame)
            assert (item.peer, link_id) == (self.path.first, self.path.forward_id)
            assert not self.closes, "a path that is closed sends"
            if kind == CLOSE:
                self.closes += 1
                read_close_body(body)
                continue
            assert kind == CELL
            for hop in self.keys:
                body = peel(hop.forward, self.heard, body)
            self.heard += 1
            self.said(decode_payload(body[:PAYLOAD_BYTES]))

    def said(self, payload: payloads.Payload) -> None:
        """The owner's word to the last relay, who closes the path where this fails."""
        assert payload.command in payloads.OUTWARD
        if payload.command in payloads.CREDITED:
            self.credits -= 1
            assert self.credits >= 0, "a cell without credit"
        if payload.command == payloads.OPEN:
            self.last += 1
            assert payload.stream == self.last, "the relay counts the numbers"
            self.open.add(payload.stream)
        elif payload.stream:
            assert payload.stream in self.open, "a cell of a stream that was not opened, or ended"
            if payload.command == payloads.END:
                self.open.discard(payload.stream)

    def arrive(self, kind: int, body: bytes) -> None:
        before = self.path.phase
        sends, events = self.path.frame_arrived(Frame(self.path.backward_id, kind, body))
        self.sent(sends)
        for event in events:
            match event:
                case Opened():
                    assert before == BUILDING
                case Chunk() | Pong():
                    assert before == OPEN
                    assert isinstance(event, Pong) or event.stream in self.reading
                case StreamOver():
                    self.reading.remove(event.stream)
                    self.open.discard(event.stream)
                case Broken():
                    self.breaks += 1
                    assert event.origin is None or event.origin < len(HOPS)
                    assert self.path.phase == CLOSED
        assert self.breaks <= 1
        after = self.path.phase
        assert before == after or (before, after) in CHANGES
        assert (after == CLOSED) == bool(self.closes)


CHANGES = {(BUILDING, OPEN), (BUILDING, CLOSED), (OPEN, CLOSED)}


def _open_stream(scene: Scene, program: Program) -> None:
    target, size = program.choose(TARGETS), program.number()
    if scene.path.phase == OPEN and scene.path._last_stream < payloads.MAX_STREAM:
        number, sends = scene.path.open_stream(target, bytes(size))
        scene.reading.add(number)
        scene.sent(sends)


def _end_stream(scene: Scene, program: Program) -> None:
    number = program.byte()
    scene.sent(scene.path.end_stream(number))
    scene.reading.discard(number)


def _ping(scene: Scene, program: Program) -> None:
    if scene.path.phase == OPEN:
        scene.sent(scene.path.ping(program.filled(payloads.PING_BYTES)))


def _pad(scene: Scene, program: Program) -> None:
    if scene.path.phase == OPEN:
        scene.sent(pad(scene.path))


def _close(scene: Scene, program: Program) -> None:
    scene.sent(scene.path.close())


def _frame(scene: Scene, program: Program) -> None:
    kind = sorted(KINDS)[program.byte() % len(KINDS)]
    body = program.data()[:BODY_BYTES].ljust(BODY_BYTES, b"\0")
    scene.arrive(kind, body)


def _cell(scene: Scene, program: Program) -> None:
    """A cell that opens, of any hop, with anything in it."""
    origin, command, stream = program.byte() % len(HOPS), program.byte(), program.number()
    claimed, data = program.byte(), program.data()
    length = len(data) if claimed < 250 else claimed
    head = bytes((command,)) + stream.to_bytes(2, "big") + (length & 0xFFFF).to_bytes(2, "big")
    payload = (head + data)[:PAYLOAD_BYTES].ljust(PAYLOAD_BYTES, b"\0")
    for _ in range(program.byte() + 1 if claimed % 8 == 7 else 1):
        if command == payloads.CREDIT:
            scene.credits += int.from_bytes(data[:2], "big")
        elif command == payloads.ESTABLISHED and scene.path.phase == BUILDING:
            scene.credits = int.from_bytes(data[1:3], "big")
        count = scene.path.cells_heard
        body = originate(scene.keys[origin].backward, count, payload)
        for hop in reversed(scene.keys[:origin]):
            body = seal_back(hop.backward, count, body)
        scene.arrive(CELL, body)


STEPS: Sequence[Callable[[Scene, Program], None]] = (
    _cell,
    _open_stream,
    _end_stream,
    _ping,
    _pad,
    _close,
    _frame,
)
STEP = {step.__name__[1:]: number for number, step in enumerate(STEPS)}


def client_path_of(data: bytes) -> None:
    scene, program = Scene(), Program(data)
    for _ in range(MAX_STEPS):
        if not program:
            break
        program.choose(STEPS)(scene, program)
    scene.sent(scene.path.close())
    assert (scene.path._held, scene.path._streams) == (type(scene.path._held)(), set())
