"""When which frame of an answer leaves, so that its timing says nothing about the words in it.

state     event                                     next      effects
────────  ────────────────────────────────────────  ────────  ─────────────────────────
WAITING   first write: the request was accepted     ACCEPTED  its frame, at once
WAITING   one second without a frame                WAITING   NOTHING
WAITING   finish                                    PACED     frames, at once
ACCEPTED  second write: the first token             PACED     its frame, at once
ACCEPTED  bytes are left over, a second went by     ACCEPTED  DATA, at once; or NOTHING
ACCEPTED  finish                                    PACED     frames, at once
PACED     the clock's next beat                     PACED     DATA, or NOTHING
PACED     the clock's next beat, all was written    ENDING    END with the last bytes
ENDING    the clock's next beat                     ENDING    PADDING
ENDING    the clock's next beat, the step is full   DONE      LAST
any       pause                                     same      none until resumed

The clock starts with the frame of the first token. From then on one frame leaves on each beat, full
or empty; a beat that was missed is left out and never made up for, because a burst would tell how
busy the node was. The number of frames from the first token to LAST is a step of `padding`, so that
who counts frames learns the step. What stays visible is the time to the first token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from overlay.core import frames, padding

BEAT_S = 0.1
"""As often as text that is read need grow. Each frame wakes every relay of n paths, one by one,
which costs ten times what a cell among many does; what it carries is little of its room."""
WAITING_BEAT_S = 1.0
"""Between frames while the engine has not begun to answer."""
MAX_UNSENT_BYTES = 256 << 10
MAX_FRAMES_BY_WISH = 512

WAITING = "WAITING"
ACCEPTED = "ACCEPTED"
PACED = "PACED"
ENDING = "ENDING"
DONE = "DONE"
TRANSITIONS = frozenset(
    {
        (WAITING, "write", ACCEPTED),
        (WAITING, "finish", PACED),
        (ACCEPTED, "write", PACED),
        (ACCEPTED, "finish", PACED),
        (PACED, "take", ENDING),
        (ENDING, "take", DONE),
    }
)
"""Every change of the state, with the method that may bring it about."""


class PacedFrame(NamedTuple):
    """What goes into the next frame: its kind and its data."""

    kind: int
    data: bytes


@dataclass(slots=True)
class Pacing:
    """One answer's frames; mutable, because it is asked for every frame.

    `frame_data_bytes` is what a frame carries. `least_frames` lengthens a short answer, as a dummy
    question asks for; at most `MAX_FRAMES_BY_WISH` are granted.
    """

    started_s: float
    frame_data_bytes: int
    least_frames: int = 0
    state: str = WAITING
    _unsent: bytearray = field(default_factory=bytearray)
    _due_s: float = 0.0
    _paused: bool = False
    _finished: bool = False
    _frames: int = 0
    """Since the first token."""
    _padded_frames: int = 0

    def __post_init__(self) -> None:
        self._due_s = self.started_s + WAITING_BEAT_S
        self.least_frames = min(self.least_frames, MAX_FRAMES_BY_WISH)

    @property
    def has_room(self) -> bool:
        """Whether the engine may write on; false makes it wait for the paths."""
        return len(self._unsent) < MAX_UNSENT_BYTES

    def write(self, data: bytes, now_s: float) -> None:
        """Add `data` to the answer. The first write says that the request was accepted, the second
        is the first token. Raises `ValueError` after `finish`."""
        if self._finished:
            raise ValueError("an answer that was finished takes no more")
        self._unsent += data
        if self.state == WAITING:
            self.state, self._due_s = ACCEPTED, now_s
        elif self.state == ACCEPTED:
            self._start_clock(now_s)

    def finish(self, now_s: float) -> None:
        """Nothing more is written. An answer that has no token, such as a refusal, is paced and
        padded like others."""
        if self._finished:
            return
        self._finished = True
        if self.state in (WAITING, ACCEPTED):
            self._start_clock(now_s)

    def pause(self) -> None:
        """Fewer than k paths are there to carry frames."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def due_s(self) -> float | None:
        """When to ask `take` for the next frame; None while paused and when done."""
        return None if self._paused or self.state == DONE else self._due_s

    def take(self, now_s: float) -> PacedFrame | None:
        """The frame that leaves now; None when none is due."""
        due_s = self.due_s()
        if due_s is None or now_s < due_s:
            return None
        data = bytes(self._unsent[: self.frame_data_bytes])
        del self._unsent[: len(data)]
        if self.state in (WAITING, ACCEPTED):
            self._due_s = now_s if self._unsent else now_s + WAITING_BEAT_S
            return PacedFrame(frames.DATA if data else frames.NOTHING, data)
        missed = (now_s - self._due_s) // BEAT_S
        self._due_s += BEAT_S * (missed + 1)
        if self._due_s <= now_s:  # the division was rounded up
            self._due_s += BEAT_S
        self._frames += 1
        if self.state == ENDING:
            return self._padding()
        if self._finished and not self._unsent:
            self.state = ENDING
            self._padded_frames = padding.answer_frames(max(self._frames + 1, self.least_frames))
            return PacedFrame(frames.END, data)
        return PacedFrame(frames.DATA if data else frames.NOTHING, data)

    def _padding(self) -> PacedFrame:
        if self._frames < self._padded_frames:
            return PacedFrame(frames.PADDING, b"")
        self.state = DONE
        return PacedFrame(frames.LAST, b"")

    def _start_clock(self, now_s: float) -> None:
        self.state, self._due_s = PACED, now_s
