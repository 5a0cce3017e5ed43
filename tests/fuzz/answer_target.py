"""The target `answer`: chunks of an answer, some changed on the way, some by the node itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.core import frames, sida
from overlay.core.frames import AnswerAssembler, FrameError
from tests.fuzz.program import Program

REPLY_KEY = bytes(32)
CODES = ((4, 3), (1, 1), (3, 2), (16, 16))
FRAMES = 12
"""Of the honest answer; the last three are END, PADDING and LAST."""
WORDS = b"word %d "
MAX_STEPS = 400


def _path_key(index: int) -> bytes:
    return bytes((index + 1,)) * 32


def _nonce(index: int) -> bytes:
    return bytes((index + 1,)) * frames.NONCE_BYTES


@lru_cache(maxsize=len(CODES))
def honest(n: int, k: int) -> tuple[tuple[bytes, ...], ...]:
    """`honest(n, k)[number][index]` is a chunk."""
    draw = Random(1).randbytes
    kinds = [frames.DATA] * (FRAMES - 3) + [frames.END, frames.PADDING, frames.LAST]
    made = []
    for number, kind in enumerate(kinds):
        data = WORDS % number if kind in (frames.DATA, frames.END) else b""
        cloves = frames.disperse(kind, data, number, REPLY_KEY, n, k, draw)
        made.append(tuple(_seal(i, number, _nonce(i), clove) for i, clove in enumerate(cloves)))
    return tuple(made)


WHOLE = b"".join(WORDS % number for number in range(FRAMES - 2))


@lru_cache(maxsize=64)
def _answer_key(index: int) -> bytes:
    return frames.answer_key(_path_key(index))


def _seal(index: int, number: int, nonce: bytes, clove: bytes) -> bytes:
    return frames.seal_clove(_answer_key(index), nonce, number, clove)


@dataclass(eq=False)
class Scene:
    n: int
    k: int
    assembler: AnswerAssembler = field(init=False)
    read: bytes = b""
    node_lies: bool = False
    changed: set[int] = field(default_factory=set)
    """Paths that brought what the node did not send there."""

    def __post_init__(self) -> None:
        keys = tuple(map(_path_key, range(self.n)))
        self.assembler = AnswerAssembler(REPLY_KEY, keys, self.n, self.k)

    def feed(self, index: int, chunk: bytes) -> None:
        try:
            self.read += b"".join(self.assembler.feed(index, chunk))
        except FrameError:
            assert self.node_lies, "an honest node's answer was refused"
            raise


def _chunks(scene: Scene, program: Program) -> None:
    """Some of the cloves of one of the honest frames."""
    number, mask = program.byte() % FRAMES, program.number()
    for index in range(scene.n):
        if mask >> index & 1:
            scene.feed(index, honest(scene.n, scene.k)[number][index])


def _altered(scene: Scene, program: Program) -> None:
    """A bit is another, the end is missing, or the chunk belongs to another path or frame."""
    number, index, deed = program.byte() % FRAMES, program.byte() % scene.n, program.byte() % 3
    chunk = honest(scene.n, scene.k)[number][index]
    if deed == 0:
        at = program.number() % (8 * len(chunk))
        changed = bytearray(chunk)
        changed[at // 8] ^= 1 << at % 8
        chunk = bytes(changed)
    elif deed == 1:
        chunk = chunk[: program.number()]
    else:
        index = (index + program.byte()) % scene.n
    if chunk != honest(scene.n, scene.k)[number][index]:
        scene.changed.add(index)
    scene.feed(index, chunk)


def _bytes(scene: Scene, program: Program) -> None:
    index = program.byte() % scene.n
    scene.changed.add(index)
    scene.feed(index, program.data())


def _nonce_of(program: Program, index: int) -> bytes:
    return _nonce(index) if program.byte() % 4 else bytes(frames.NONCE_BYTES)


def _number(program: Program) -> int:
    """Mostly one that may be awaited."""
    near = program.byte()
    return near if near < 250 else int.from_bytes(program.take(4).ljust(4, b"\0"), "big")


def _sealed(scene: Scene, program: Program) -> None:
    """The node seals anything for a path."""
    scene.node_lies = True
    index = program.byte() % scene.n
    number, nonce = _number(program), _nonce_of(program, index)
    scene.feed(index, _seal(index, number, nonce, program.data()))


def _made(scene: Scene, program: Program) -> None:
    """The node makes a frame of anything, or disperses what is none."""
    scene.node_lies = True
    number, how, repeated = _number(program), program.byte(), program.byte() % 16 + 1
    data = program.data()
    if how % 4 == 0:
        inner = data
    else:
        frame = data.ljust(frames.frame_bytes(scene.k), b"\0")
        if how % 4 == 1:
            frame = frame[: program.number()]
        nonce = bytes(frames.NONCE_BYTES)
        ad = number.to_bytes(frames.NUMBER_BYTES, "big")
        inner = nonce + ChaCha20Poly1305(REPLY_KEY).encrypt(nonce, frame, ad)
    randomness = bytes(sida.random_bytes_needed(scene.k))
    cloves = sida.split(inner, scene.n, scene.k, randomness)
    for later in range(repeated):
        for index in range(scene.k):
            at = (number + later) % (1 << 32)
            scene.feed(index, _seal(index, at, _nonce(index), cloves[index].encode()))


STEPS: Sequence[Callable[[Scene, Program], None]] = (_chunks, _altered, _bytes, _sealed, _made)
STEP = {step.__name__[1:]: number for number, step in enumerate(STEPS)}


def answer(data: bytes) -> None:
    program = Program(data)
    scene = Scene(*program.choose(CODES))
    assembler = scene.assembler
    try:
        for _ in range(MAX_STEPS):
            if not program:
                break
            program.choose(STEPS)(scene, program)
            kept = {**assembler._partial, **assembler._whole}
            assert len(kept) <= frames.WINDOW_FRAMES + 1
            assert all(number >= assembler.next_number for number in kept)
            assert not set(assembler._partial) & set(assembler._whole)
            assert set(assembler.polluted) <= set(range(scene.n))
    except FrameError:
        return  # the asker gives up
    if not scene.node_lies:
        assert WHOLE.startswith(scene.read)
        assert set(assembler.polluted) == scene.changed
        assert not assembler.ended or scene.read == WHOLE
