"""One path at one relay, as far as all relays are alike; what the last one does more is in
`overlay.core.relay_exit`. `any` stands for MIDDLE and LAST.

state   event                                next    effects
──────  ───────────────────────────────────  ──────  ────────────────────────────────────────────
NEW     SETUP that names a next hop          MIDDLE  SETUP to following
NEW     SETUP that names none                LAST    ESTABLISHED to the owner
MIDDLE  CELL from previous, opens            MIDDLE  CELL to following, a layer less
MIDDLE  CELL from following                  MIDDLE  CELL to previous, a layer more
LAST    CELL from previous, opens            LAST    what its payload asks for
any     CELL from previous, does not open    GONE    ERROR to the owner, CLOSE to following
any     frame of a kind not for this place   GONE    ERROR to the owner, CLOSE to following
any     CLOSE from previous, previous gone   GONE    CLOSE to following
MIDDLE  CLOSE from following, it is gone     GONE    ERROR to the owner
any     too old, idle, another's turn, the   GONE    ERROR to the owner, CLOSE to following
        relay ends, its queue to following
        overflows
any     its queue to previous overflows      GONE    CLOSE to previous and to following
LAST    any of these                         GONE    besides, STREAM_END to its model nodes

Outwards a path is closed by CLOSE, hop by hop. Inwards the relay that ends it says so in a cell
of its own, under its own key, and the owner closes what is left; so the owner knows who spoke. A
relay that refuses a set-up has no keys for it and says CLOSE, which the one before it reports; so
it does when cells for the owner were lost with its queue, since none after them would open. A path
that is gone is forgotten by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.core.effects import Neighbour, Peer, Purge, Send
from overlay.core.layer import originate, peel_with, seal_back_with
from overlay.core.payload import ERROR, Payload, encode_payload
from overlay.core.reasons import Reason, Report
from overlay.core.relay_exit import Exit
from overlay.core.setup import HopKeys
from overlay.core.wire import (
    CELL,
    CLOSE,
    HEADER_BYTES,
    ID_BYTES,
    KINDS,
    SETUP,
    backward_id,
    encode_frame,
)

NEW = "NEW"
MIDDLE = "MIDDLE"
LAST = "LAST"
GONE = "GONE"

TRANSITIONS = frozenset(
    {
        (NEW, SETUP, MIDDLE),
        (NEW, SETUP, LAST),
        *((state, kind, GONE) for state in (MIDDLE, LAST) for kind in (*KINDS, None)),
    }
)
"""Every change of a path's state, with the kind of frame that may bring it about; None for all
else that happens. A path never changes its place."""

_CELL = bytes((CELL,))


@dataclass(slots=True, eq=False)
class RelayPath:
    """`in_id` names the path on the link to the previous hop, `out_id` on the link to the
    following one, which is None at the last. Counters are those of the next cell.

    Mutable, because it sees every cell.
    """

    keys: HopKeys
    previous: Peer
    in_id: bytes
    neighbour: Neighbour
    """Whose share of the table it takes."""
    opened_s: float
    heard_s: float
    """When the owner's side last sent something."""
    seen_s: float
    """What `heard_s` was when it was last asked whether the path is silent."""
    following: Peer | None = None
    out_id: bytes = b""
    exit: Exit | None = None
    outwards: bytes = b""
    """What a CELL to the following hop begins with; the rest is `peeled`."""
    forward_count: int = 0
    backward_count: int = 0
    _forward: ChaCha20Poly1305 | None = None
    _backward: ChaCha20Poly1305 | None = None
    _inwards: bytes = b""

    def __post_init__(self) -> None:
        self._inwards = backward_id(self.in_id) + _CELL

    @property
    def back_id(self) -> bytes:
        """What names the path backwards on the link to the previous hop."""
        return self._inwards[:ID_BYTES]

    @property
    def state(self) -> str:
        return MIDDLE if self.exit is None else LAST

    def follow(self, following: Peer, out_id: bytes, body: bytes) -> Send:
        """Go on to `following` under `out_id` with the `body` of its set-up."""
        self.following, self.out_id = following, out_id
        self.outwards = out_id + _CELL
        return Send(following, encode_frame(out_id, SETUP, body))

    def rest(self) -> None:
        """Free what is only needed while cells come, more than the path takes without it."""
        self._forward = self._backward = None

    def peeled(self, frame: bytes) -> bytes:
        """The body of a CELL from the previous hop, a layer less. Raises `CellError`."""
        if self._forward is None:
            self._forward = ChaCha20Poly1305(self.keys.forward)
        body = peel_with(self._forward, self.forward_count, frame, HEADER_BYTES)
        self.forward_count += 1
        return body

    def back(self, frame: bytes) -> bytes:
        """What the previous hop gets for a CELL from the following one. Raises `CellError`."""
        if self._backward is None:
            self._backward = ChaCha20Poly1305(self.keys.backward)
        body = seal_back_with(self._backward, self.backward_count, frame[HEADER_BYTES:])
        self.backward_count += 1
        return self._inwards + body

    def say(self, payload: Payload) -> Send:
        """A cell of this relay's own to the path's owner. Raises `CellError`."""
        body = originate(self.keys.backward, self.backward_count, encode_payload(payload))
        self.backward_count += 1
        return Send(self.previous, self._inwards + body)

    def report(self, report: Report) -> Send:
        """Tell the owner why the path is over, after all that waits for it: a cell opens only
        when those before it have come."""
        return self.say(Payload(ERROR, data=report.error_data()))

    def purge(self) -> Purge:
        return Purge(self.previous, self.back_id)

    def close_outwards(self, reason: Reason = Reason.NONE) -> list[Send]:
        """Tell the following hop and the model nodes."""
        sends = self.exit.end_all() if self.exit is not None else []
        if self.following is not None:
            body = Report(reason).close_body()
            sends.append(Send(self.following, encode_frame(self.out_id, CLOSE, body)))
        return sends
