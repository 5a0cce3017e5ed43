"""Inputs for the overlay's targets to start from: see `tests.fuzz.seeds`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from overlay.core import payload as payloads
from overlay.core import setup, sida
from overlay.core.build_times import BuildTimes
from overlay.core.guards import Barred, Guard, GuardList, Tally
from overlay.core.layer import PAYLOAD_BYTES, wrap
from overlay.core.reasons import Reason, Report
from overlay.core.wire import BODY_BYTES, CLOSE, SETUP, STREAM, encode_frame, stream_frame
from overlay.guard_file import Kept, write_kept
from tests.fuzz import (
    answer_target,
    client_path_target,
    inbox_target,
    overlay_targets,
    relay_target,
)
from tests.fuzz.program import data

LAST, MIDDLE = 0, 4
"""Set-ups of the relay's target, in `relay_target.SETUPS` after the honest owner's."""


def _step(steps: Mapping[str, int], name: str, *arguments: int | bytes) -> bytes:
    """One step of a program; numbers are bytes."""
    parts = [bytes((part,)) if isinstance(part, int) else part for part in arguments]
    return bytes((steps[name],)) + b"".join(parts)


def relay() -> Iterator[bytes]:
    def step(name: str, *arguments: int | bytes) -> bytes:
        return _step(relay_target.STEP, name, *arguments)

    def forged(command: int, stream: int, content: bytes, times: int = 1) -> bytes:
        claimed = 1 if command == payloads.OPEN else 0
        repeated = bytes((3, times - 1)) if times > 1 else b"\0"
        return step(
            "forged", repeated, command, stream.to_bytes(2, "big"), claimed, data(content), 0
        )

    target = relay_target.TARGETS[0]
    honest = step("honest_setup", 0) + step("honest_deed", 0, 0, b"\x01\x00", 0)
    last = step("setup", LAST, 0, 0)
    middle = step("setup", MIDDLE, 0, 0)
    opened = last + forged(payloads.OPEN, 1, target + b"question")
    refusal = Report(Reason.PERIOD, bytes(4)).close_body()[:8]
    yield honest + step("answered", 0, 0, data(b"answer")) + step("left", 9)
    yield honest + step("honest_deed", 0, 1, 1) + step("honest_deed", 0, 2) + step("time", 255)
    yield honest + step("answered", 0, 2 + 4 * 4, data(refusal)) + step("honest_deed", 0, 4)
    yield honest + step("answered", 0, 192, 255, data(b"more")) + step("left", 255)
    yield opened + step("answered", 0, 192, 255, data(b"a")) * 2 + forged(4, 0, b"\0\x20")
    yield opened + forged(payloads.DATA, 1, b"more", 127) + step("left", 200)
    yield opened + forged(payloads.END, 1, b"\0") + forged(payloads.DATA, 1, b"crossed")
    yield last + forged(payloads.OPEN, 1, target, 20) + step("gone", 5)
    yield last + forged(payloads.PING, 0, bytes(8), 9) + forged(payloads.PAD, 0, b"")
    yield middle + forged(payloads.DATA, 1, b"passed on") + step("answered", 0, 2 + 4, data(b"x"))
    yield middle + step("answered", 0, 2 + 8, data(refusal)) + step("setup", LAST, 1, 1)
    yield middle + step("frame", 0, 0, CLOSE, data(b"")) + step("gone", 3) + step("gone", 0)
    yield last + step("setup", LAST + 1, 0, 8) + step("shed", 0, 4, 0) + step("shed", 0, 0, 0)
    yield middle + step("shed", 0, 0, 2) + opened + step("shed", 0, 0, 2)
    full = opened + step("answered", 0, 192, 255, data(b"a")) * 2
    yield full + step("answered", 0, 2 + 4 * 4, data(b"")) + step("answered", 0, 0, data(b"b"))
    yield opened + forged(payloads.DATA, 1, b"no credit", 200)
    yield last + forged(payloads.PONG, 0, bytes(8)) + forged(payloads.CREDIT, 0, b"\0\1")
    yield b"".join(step("setup", i, i % 3, i) + step("time", 20) for i in range(8)) + last
    yield b"".join(step("setup", number, number % 3, number % 4) for number in range(13))
    yield last + step("not_remembered") + step("time", 255) * 4
    yield step("frame", 1, 1, SETUP, data(b"no set-up")) + step("bytes", 0, data(b"short"))
    yield step("frame", 1, 1, STREAM, data(b"")) + step("bytes", 0, data(bytes(2048)))


def client_path() -> Iterator[bytes]:
    def step(name: str, *arguments: int | bytes) -> bytes:
        return _step(client_path_target.STEP, name, *arguments)

    def cell(origin: int, command: int, stream: int, content: bytes) -> bytes:
        return step("cell", origin, command, stream.to_bytes(2, "big"), 0, data(content))

    def cells(command: int, stream: int, content: bytes, times: int) -> bytes:
        body = (command, stream.to_bytes(2, "big"), 7, data(content), times - 1)
        return step("cell", 2, *body)

    established = cell(2, payloads.ESTABLISHED, 0, bytes((payloads.VERSION, 0, 9, 0, 8)))
    asked = established + step("open_stream", 0, b"\x40\x00")
    over = cell(2, payloads.END, 1, bytes((Reason.TARGET_REFUSED,)))
    yield asked + cell(2, payloads.CREDIT, 0, b"\0\x04") + cell(2, payloads.DATA, 1, b"hi") + over
    yield asked + step("end_stream", 1) + cell(2, payloads.DATA, 1, b"late") + over
    yield asked + cells(payloads.DATA, 1, b"chunk", 40) + cells(payloads.DATA, 2, b"", 9)
    yield asked + over + step("open_stream", 1, b"\0\x09") + cell(2, payloads.CREDIT, 0, b"\0\x09")
    yield asked + step("open_stream", 1, b"\x20\x09") + step("end_stream", 2) + step("close")
    yield asked + cells(payloads.CREDIT, 0, b"\0\x01", 20)
    yield established + step("open_stream", 0, b"\xff\0") + over + step("end_stream", 1)
    yield cell(2, payloads.ESTABLISHED, 0, bytes((payloads.VERSION, 0, 0, 0, 8)))
    yield step("frame", 2, data(b"\7\7")) + step("frame", 0, data(b""))
    yield established + step("ping", data(b"12345678")) + cell(2, payloads.PONG, 0, b"12345678")
    yield established + step("pad") + cell(2, payloads.PAD, 0, b"") + established
    yield established + cell(1, payloads.ERROR, 0, bytes((Reason.NEIGHBOUR_GONE,)))
    yield cell(0, payloads.ERROR, 0, Report(Reason.PERIOD, bytes(4)).error_data())
    yield cell(0, payloads.DATA, 1, b"too early") + step("close")
    yield step("frame", 2, data(Report(Reason.PUZZLE, bytes(17)).close_body()))
    yield step("frame", 1, data(b"no cell")) + step("frame", 3, data(b""))


def inbox() -> Iterator[bytes]:
    def step(name: str, *arguments: int | bytes) -> bytes:
        return _step(inbox_target.STEP, name, *arguments)

    def asked(request: int, cloves: int) -> bytes:
        return b"".join(step("clove", request, i, i % 4, i // 4, 0) for i in range(cloves))

    def request(kind: int, least_frames: int, claimed: int, content: bytes = b"") -> bytes:
        head = bytes((kind,)) + least_frames.to_bytes(2, "big") + claimed.to_bytes(4, "big")
        return data(head + content)

    words = step("write", 0, 0, data(b"")) + step("write", 0, 3, data(b"some words "))
    end = step("finish", 0)
    short, long = step("time", 60), step("time", 255)
    yield asked(0, 4) + words + short + end + long
    yield asked(0, 3) + words + step("gone", 0) + short + step("attach", 0, 0, 0, b"\0\1", 1, 5)
    yield asked(0, 3) + step("end", 0, 0, 0) + step("end", 1, 0, 0) + step("end", 2, 0, 0)
    yield asked(0, 2) + step("attach", 0, 0, 0, b"\0\0", 2, 2) + long
    yield asked(1, 4) + long + asked(1, 4)
    yield asked(2, 1) + step("shed", 0, 0) + asked(3, 3) + asked(4, 5) + asked(5, 3)
    yield asked(6, 3) + asked(7, 3) + step("period", 2) + asked(0, 4)
    yield asked(0, 3) + words + step("write", 0, 15, data(bytes(2_000))) + long + end
    yield step("clove", 3, 0, 0, 0, 2) + step("chunk", 0, 0, data(b"\0")) + long
    yield b"".join(step("clove", 3, 0, i % 4, i % 8, 1 + i % 2) for i in range(12))
    yield step("chunk", 1, 1, data(b"\0\1" + bytes(1_948)))
    yield step("chunk", 1, 1, data(b"\0\0" + bytes(36))) + step("chunk", 1, 1, data(b""))
    # A header of a clove: version and index, n - 1 and k - 1, and the length of the ciphertext.
    for index, code in ((0, 0x00), (0, 0x32), (3, 0x32), (1, 0x10)):
        clove = bytes((0x20 | index, code)) + (1_847).to_bytes(3, "big") + bytes(1_879)
        yield step("sealed_clove", 2, 1, index, 3, 0, data(clove)) * 2 + asked(0, 1)
    for kind, least, claimed in ((0, 0, 5), (1, 600, 0), (2, 0, 0), (0, 9, 70_000), (0, 0, 4)):
        made = request(kind, least, claimed, b"hello")
        yield step("sealed_request", 2, kind, 0, 1, 0, 0, made) + words + end + long
    yield step("sealed_request", 2, 0, 1, 4, 0, 0, data(b"not sealed"), b"\0\x0a")
    polluted = bytes((0x23, 0x32)) + (5_000).to_bytes(3, "big") + bytes(1_879)
    spoilt = step("sealed_clove", 2, 1, 0, 7, 0, data(polluted))
    yield spoilt + step("sealed_request", 2, 1, 0, 255, 0, 0, request(0, 0, 0)) + end + long
    for code, bad, moves in ((0, 0, 1), (0, 3, 3), (2, 1, 2), (4, 2, 1), (5, 9, 3)):
        made = request(0, 0, 5, b"hello")
        moved = step("polluted_attach", 2, code + 2, code, bad, moves, code % 4, made)
        yield moved + long + words + end + long
    attached = (step("attach", 0, 0, i, b"\0\0", 1, i % 2) for i in range(70))
    yield asked(0, 4) + words + b"".join(attached)
    many = step("write", 0, 255, data(bytes(250))) * 5
    yield asked(2, 1) + words + many + long * 9 + step("attach", 2, 0, 0, b"\0\0", 2, 2)
    yield b"".join(step("chunk", i % 4, i, data(b"\0\1" + bytes(i))) for i in range(8)) * 2
    twice = step("sealed_request", 2, 0, 1, 255, 0, 1, request(0, 0, 0))
    yield twice + step("sealed_request", 2, 1, 1, 255, 0, 1, request(0, 0, 0))
    yield step("frame", 0, 0, 3, data(b"")) + step("bytes", 0, data(b"short"))


def answer() -> Iterator[bytes]:
    def step(name: str, *arguments: int | bytes) -> bytes:
        return _step(answer_target.STEP, name, *arguments)

    def chunks(number: int, mask: int = 0xFFFF) -> bytes:
        return step("chunks", number, mask.to_bytes(2, "big"))

    def made(number: int, kind: int, content: bytes, how: int = 2, times: int = 1) -> bytes:
        frame = bytes((kind,)) + len(content).to_bytes(2, "big") + content
        size = b"\x10\0" if how == 1 else b""
        return step("made", number, how, times - 1, data(frame), size)

    numbers = range(answer_target.FRAMES)
    for code in range(len(answer_target.CODES)):
        yield bytes((code,)) + b"".join(map(chunks, numbers))
    yield b"\0" + b"".join(chunks(number, 7 << number % 2) for number in reversed(numbers))
    yield b"\0" + b"".join(chunks(number, 3) for number in numbers) + chunks(0, 8)
    yield (
        b"\0" + step("altered", 0, 1, 0, b"\1\0") + chunks(0) + step("altered", 1, 2, 1, b"\0\t")
    )
    yield b"\0" + chunks(1) + step("altered", 1, 2, 2, 1) + step("bytes", 3, data(b"short"))
    yield b"\0" + made(0, 0, b"some") + made(1, 1, b"words") + made(2, 3, b"") + made(3, 4, b"")
    yield b"\0" + made(0, 2, b"", times=16) + made(16, 3, b"")
    yield b"\0" + made(0, 0, b"", how=1) + made(1, 0, b"")
    yield b"\0" + made(0, 0, b"raw", how=0)
    yield b"\0" + made(249, 0, b"far") + made(120, 0, b"near") + made(0, 9, b"unknown")
    yield b"\0" + step("sealed", 0, 0, 1, data(bytes((0x20, 0x32, 0, 0, 40)) + bytes(60)))
    yield b"\0" + step("sealed", 1, 250, bytes(4), 0, data(b"no clove")) + chunks(0)


def path_setup() -> Iterator[bytes]:
    for number in range(5):  # of these the last does not open
        known = relay_target.SETUPS[(0, 6, 10, 12, -1)[number]]
        yield b"\0" + known.build(number)[1]
    secret = data(bytes(range(32)))
    for last, node in ((1, bytes(20)), (0, b"N" * 20), (0, bytes(20)), (1, b"N" * 20), (2, b"")):
        info = bytes((setup.VERSION, last)) + node + bytes(4)
        yield b"\1" + data(info) + data(b"for the next") + secret
    yield b"\1" + data(bytes((9, 1))) + data(b"") + secret
    for hops in range(4):
        yield b"\2" + bytes((0, 1, hops, 0, 9, 7, 0, 0))
    for at in (3, 17 * 256 + 3, 255):
        yield b"\2" + bytes((0, 1, 2, 0, 9, 1)) + at.to_bytes(2, "big")


def cell() -> Iterator[bytes]:
    for hops in range(4):
        yield bytes((hops, 0, 0, hops, 7, 0, 0)) + data(b"a payload") + bytes(BODY_BYTES)
    yield bytes((2, 0, 0, 9, 1, 0, 77)) + data(b"changed") + b"short"
    yield bytes((2, 1, 0, 3, 7, 0, 0)) + data(b"") + bytes((1,)) * BODY_BYTES
    yield bytes((2, 1, 0, 4, 7, 0, 0)) + data(b"") + bytes(BODY_BYTES)
    body = wrap(overlay_targets.CELL_KEYS[:1], 5, bytes(PAYLOAD_BYTES), bytes(48))
    yield bytes((0, 0, 0, 5, 7, 0, 0)) + data(b"") + body


def clove() -> Iterator[bytes]:
    for n, k in ((4, 3), (1, 1), (5, 2), (3, 3), (6, 3), (16, 8)):
        head = bytes((n - 1, k - 1, 0, 100))
        yield head + b"\0"
        yield head + bytes((2, 0, 0, 0, 50)) + bytes((n - 1, 0, 1, 90))
        yield head + bytes((2, 1 % n, 1, 0, 99)) + bytes((0, 2, 0x20, (n - 1) << 4, 0, 0, 99))
        yield (
            head + bytes((1, 0, 3)) + data(bytes((0x20, n - 1 << 4 | k - 1, 0, 0, 116)) + bytes(60))
        )


def attach() -> Iterator[bytes]:
    for number, index in ((0, 0), (3, 1), (6, 7), (7, 15)):
        for at, raw in ((44, bytes((index, number, 0, 0, 1, 2))), (4, bytes((32, number)))):
            yield bytes((0, number, 0, index)) + bytes((0, 0, 0, 5)) + bytes((0, at)) + raw


def request() -> Iterator[bytes]:
    for chunks in ((1950,), (1, 1949), (1950, 10), (0,), (4000,)):
        stream = b"\0\1" + bytes(8_000)
        ends = [sum(chunks[: number + 1]) for number in range(len(chunks))]
        cut = [stream[end - size : end] for end, size in zip(ends, chunks, strict=True)]
        yield b"\0" + b"".join(data(chunk) + b"\0" for chunk in cut)
    yield b"\0" + data(bytes(38)) + b"\0"
    yield b"\0" + data(b"\3\0") + b"\0" + data(bytes(1000)) + b"\7"
    yield b"\1" + b"\0\1" + bytes(1948)
    for kind, claimed in ((0, 5), (1, 0), (2, 0), (0, 90), (0, 4)):
        head = bytes((kind, 0, 7)) + claimed.to_bytes(4, "big")
        yield b"\2" + b"\0\x40" + data(head + b"hello")
    good = bytes(16) + sida.split(b"message", 1, 1, bytes(32))[0].encode()
    yield b"\4" + good
    yield b"\4" + good[:40]
    yield b"\3" + bytes(60)
    yield b"\3short"


def frame() -> Iterator[bytes]:
    yield b"\0" + stream_frame(bytes(8), b"a chunk")
    yield b"\1" + stream_frame(bytes(8), b"a chunk")[:30]
    yield b"\1" + encode_frame(bytes(8), CLOSE, b"\7\0")
    yield b"\1" + encode_frame(bytes(8), 9, b"")


def payload() -> Iterator[bytes]:
    for command, stream, content in (
        (payloads.OPEN, 1, bytes(40)),
        (payloads.DATA, 2, b"chunk"),
        (payloads.END, 3, b"\0"),
        (payloads.CREDIT, 0, b"\0\x20"),
        (payloads.PING, 0, bytes(8)),
        (payloads.PAD, 0, b""),
        (payloads.ERROR, 0, b"\7"),
        (payloads.ESTABLISHED, 0, bytes((payloads.VERSION, 0, 128, 1, 0))),
    ):
        whole = payloads.encode_payload(payloads.Payload(command, stream, content))
        yield b"\0" + whole
        yield b"\1" + whole[: payloads.HEADER_BYTES + len(content)]


def reasons() -> Iterator[bytes]:
    for reason in Reason:
        yield bytes((reason,))
    for reason, size in ((Reason.PERIOD, 4), (Reason.UNKNOWN_NEXT, 16), (Reason.PUZZLE, 17)):
        report = Report(reason, bytes(range(1, size + 1)))
        yield report.error_data()
        yield report.close_body()[: size + 2]


def guard_file() -> Iterator[bytes]:
    guard = Guard(bytes(range(20)), 20_000, 20_070, None, Tally(30, 29), Tally(4, 4))
    other = Guard(bytes(range(1, 21)), 20_000, None, 20_030, Tally(), Tally())
    barred = (Barred(bytes(range(2, 22)), 19_000),)
    guards = GuardList((guard, other), (19_000,), barred=barred)
    kept = Kept(guards, BuildTimes((0.125, 0.25)))
    whole = json.dumps(write_kept(kept, overlay_targets.CHAIN)).encode()
    yield whole
    yield whole.replace(bytes(range(20)).hex().encode(), b"00 " * 13 + b" ")
    yield json.dumps(write_kept(Kept(), overlay_targets.CHAIN)).encode()


SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "relay": relay,
    "client_path": client_path,
    "inbox": inbox,
    "setup": path_setup,
    "answer": answer,
    "cell": cell,
    "clove": clove,
    "attach": attach,
    "request": request,
    "frame": frame,
    "payload": payload,
    "reasons": reasons,
    "guard_file": guard_file,
}
