"""A relay: its paths, which of them a frame belongs to, and who may have how many.

Each path's rules are in `overlay.core.relay_path` and `overlay.core.relay_exit`; here is what
spans paths. A set-up passes these gates, the cheap ones first:

gate                                              who fails it hears
────────────────────────────────────────────────  ──────────────────────────────────────────────
came over a connection that the neighbour opened  nothing
its id is free                                    the path that has it ends
the neighbour's rate (`quotas`)                   CLOSE, QUOTA
the neighbour's share of the table                CLOSE, QUOTA
the puzzle, under load                            CLOSE, PUZZLE with what is to be solved
it opens                                          CLOSE, NOT_OPENED
of this period or one beside it                   CLOSE, PERIOD with the relay's
was not taken before                              CLOSE, REPLAYED
the ledger lists the next hop                     CLOSE, UNKNOWN_NEXT with the route set's height
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from overlay.core import payload as payloads
from overlay.core.effects import (
    Count,
    Effect,
    Entropy,
    Neighbour,
    Passed,
    Peer,
    Purge,
    Remember,
    Send,
    Tell,
)
from overlay.core.layer import PAYLOAD_BYTES
from overlay.core.payload import decode_payload
from overlay.core.puzzle import SEED_BYTES, PuzzleGate
from overlay.core.quotas import NODE_SETUPS, STRANGER_SETUPS, Buckets, Rate, Shares
from overlay.core.reasons import Reason, Report, read_close_body
from overlay.core.relay_exit import BACKWARD_WINDOW, FORWARD_WINDOW, Exit, Outcome
from overlay.core.relay_path import RelayPath
from overlay.core.replay_filter import ENTRY_BYTES, SECRET_BYTES, ReplayFilter
from overlay.core.setup import (
    OnionSecrets,
    OpenedSetup,
    ephemeral_of,
    open_setup,
    puzzle_nonce_of,
)
from overlay.core.wire import (
    CELL,
    CLOSE,
    FRAME_BYTES,
    HEADER_BYTES,
    ID_BYTES,
    SETUP,
    STREAM,
    STREAM_END,
    CellError,
    backward_id,
    encode_frame,
    read_chunk,
)
from planetserve.keys import NODE_ID_BYTES

IDLE_SCAN_S = 10.0
LOOKED_AT = 64
"""At how many paths to find a silent one."""


class Surroundings(Protocol):
    """What a relay knows of the world."""

    def knows(self, node: bytes) -> bool:
        """Whether the ledger lists `node`, so that it may be dialled."""

    def neighbour(self, peer: Peer) -> Neighbour:
        """Who is at the other end of a connection that came to us."""

    def route_set(self) -> tuple[int, bytes]:
        """Height and hash of the route set that `knows` goes by."""

    def period(self) -> int:
        """The period of set-ups now, by the machine's clock."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Paths in all, of one node and of one stranger; seconds of a path's life, and without a word
    from its owner; set-ups that the relay wants to open in a second."""

    max_paths: int = 16_384
    max_paths_a_node: int = 8_192
    max_paths_a_stranger: int = 1_024
    path_life_s: float = 3_600.0
    idle_s: float = 120.0
    setups_per_s: float = 500.0

    def __post_init__(self) -> None:
        if self.max_paths < 1:
            raise ValueError("a relay has room for one path at least")


class Role(IntEnum):
    """What a frame under an id means to its path: it comes from the owner's side, from the
    following hop, or from a model node."""

    OUT = 0
    BACK = 1
    TARGET = 2


# Members of an enumeration are slow to look up.
_OUT, _BACK, _ = Role


class Entry(NamedTuple):
    path: RelayPath
    role: Role
    stream: int = 0


class Taken(NamedTuple):
    """A set-up that passed all gates up to `take`, while it is written down."""

    peer: Peer
    link_id: bytes
    neighbour: Neighbour
    opened: OpenedSetup
    now_s: float


class Relay:
    """A relay's state; `frame_arrived`, `peer_gone`, `shed`, `sent` and `tick` are the ways in,
    and after a `Remember`, before any other, `remembered` or `not_remembered`.

    `node` is its id; `now_s` everywhere is of a clock that is never set; `replay` remembers earlier
    set-ups. Mutable, because it sees every cell.
    """

    def __init__(
        self,
        node: bytes,
        secrets: OnionSecrets,
        surroundings: Surroundings,
        replay: ReplayFilter,
        entropy: Entropy,
        limits: RelayLimits | None = None,
    ) -> None:
        self.limits = limits or RelayLimits()
        self.cells = 0
        """How many cells it has passed on."""
        self._node = node
        self._secrets = secrets
        self._surroundings = surroundings
        self._replay = replay
        self._entropy = entropy
        self._links: dict[Peer, dict[bytes, Entry]] = {}
        self._paths: dict[RelayPath, None] = {}
        self._inwards: dict[tuple[Peer, bytes], RelayPath] = {}
        """Paths by the link to the previous hop and their id on it backwards."""
        self._shares: Shares[Neighbour, RelayPath] = Shares(self.limits.max_paths)
        self._rates: Buckets[Neighbour] = Buckets()
        self._puzzle = PuzzleGate(
            self.limits.setups_per_s, entropy(SEED_BYTES), entropy(SECRET_BYTES)
        )
        self._scanned_s = 0.0
        self._taken: Taken | None = None

    @property
    def paths(self) -> int:
        return len(self._paths)

    def frame_arrived(self, peer: Peer, frame: bytes, now_s: float) -> list[Effect]:
        """A frame from `peer`; anything may be in it, nothing raises."""
        outcome = self.arrived(peer, frame, now_s)
        return [Send(*outcome)] if isinstance(outcome, tuple) else outcome

    def arrived(self, peer: Peer, frame: bytes, now_s: float) -> Passed | list[Effect]:
        """As `frame_arrived`, but for a cell that is only passed on, as most frames are, to whom
        and what, without a `Send` around it."""
        if len(frame) != FRAME_BYTES:
            return [Count("frame_malformed")]
        table = self._links.get(peer)
        entry = table.get(frame[:ID_BYTES]) if table is not None else None
        if entry is None:
            if frame[ID_BYTES] == SETUP:
                return self._set_up(peer, frame, now_s)
            return [Count("frame_unknown_path")]
        path, role, _ = entry
        try:
            if frame[ID_BYTES] == CELL:
                if role is _BACK:
                    self.cells += 1
                    return path.previous, path.back(frame)
                if role is _OUT:
                    self.cells += 1
                    path.heard_s = now_s
                    if path.following is not None:
                        return path.following, path.outwards + path.peeled(frame)
                    return self._from_owner(path, frame, now_s)
            return self._rarely(entry, frame)
        except CellError:
            return [
                Count("frame_refused"),
                *self._close(path, Report(Reason.PROTOCOL)),
            ]

    def peer_gone(self, peer: Peer) -> list[Effect]:
        """The connection to `peer` broke, or cannot be made."""
        effects: list[Effect] = [Count("peer_gone")]
        for link_id, entry in list(self._links.get(peer, {}).items()):
            if self._links.get(peer, {}).get(link_id) is entry:  # no earlier one closed its path
                effects += self._lost(entry, Reason.NEIGHBOUR_GONE)
        return effects

    def shed(self, peer: Peer, link_id: bytes) -> list[Effect]:
        """What waited for `peer` under `link_id` was too much, and is dropped."""
        if peer.dialled:
            entry = self._links.get(peer, {}).get(backward_id(link_id))
            if entry is None:
                return []
            if entry.role == Role.TARGET:
                return [Count("stream_shed"), *self._stream_over(entry, Reason.SHED, tell=True)]
            return [Count("path_shed"), *self._close(entry.path, Report(Reason.SHED))]
        # The owner cannot open a cell after those that are lost; the hop before can say it.
        told = encode_frame(link_id, CLOSE, Report(Reason.SHED).close_body())
        path = self._inwards.get((peer, link_id))
        if path is None:  # its last report, or a refusal, is what is lost
            return [Tell(peer, told)]
        return [Count("path_shed"), *self._close(path, None), Send(peer, told)]

    def sent(self, peer: Peer, link_id: bytes, frames: int = 1) -> list[Effect]:
        """So many STREAM `frames` to `peer` left their queue."""
        entry = self._links.get(peer, {}).get(backward_id(link_id))
        if entry is None or entry.path.exit is None:
            return []
        return [entry.path.say(payload) for payload in entry.path.exit.sent(entry.stream, frames)]

    def tick(self, now_s: float) -> list[Effect]:
        """Close what is too old; call it about once a second."""
        fill = len(self._paths) / self.limits.max_paths
        self._puzzle.tick(now_s, self._entropy(SEED_BYTES), fill)
        self._rates.tick(now_s)
        self._replay.advance(self._surroundings.period())
        expired = []
        for path in self._paths:  # the oldest first
            if now_s - path.opened_s < self.limits.path_life_s:
                break
            expired.append(path)
        if abs(now_s - self._scanned_s) >= IDLE_SCAN_S:
            self._scanned_s = now_s
            for path in self._paths:
                if path.heard_s < now_s - self.limits.idle_s:
                    expired.append(path)
                elif path.heard_s < now_s - IDLE_SCAN_S:
                    path.rest()
        effects: list[Effect] = []
        for path in dict.fromkeys(expired):
            effects += [Count("path_expired"), *self._close(path, Report(Reason.EXPIRED))]
        return effects

    def shut_down(self) -> list[Effect]:
        """Tell the owner of each path that the relay ends."""
        effects: list[Effect] = []
        for path in list(self._paths):
            effects += self._close(path, Report(Reason.SHUTTING_DOWN))
        return effects

    def remembered(self) -> list[Effect]:
        """The set-up that was taken last is written down: what comes of it."""
        taken, self._taken = self._taken, None
        if taken is None:
            return []
        following = taken.opened.next_node
        if following == self._node or (
            following is not None and not self._surroundings.knows(following)
        ):
            height, digest = self._surroundings.route_set()
            report = Report(Reason.UNKNOWN_NEXT, height.to_bytes(8, "big") + digest[:8])
            return [Count("setup_unknown_next"), self._refusal(taken.peer, taken.link_id, report)]
        return [*self._make_room(taken.neighbour), *self._begin(taken)]

    def not_remembered(self) -> None:
        """It could not be written down: nothing comes of it."""
        self._taken = None

    def _set_up(self, peer: Peer, frame: bytes, now_s: float) -> list[Effect]:
        link_id, body = frame[:ID_BYTES], frame[HEADER_BYTES:]
        if peer.dialled:
            return [Count("setup_from_dialled")]
        refused, neighbour = self._refused(peer, body, now_s)
        if refused is not None:
            return [Count("setup_over_quota"), self._refusal(peer, link_id, refused)]
        try:
            opened = open_setup(body, self._secrets, self._node)
        except CellError:
            report = Report(Reason.NOT_OPENED)
            return [Count("setup_not_opened"), self._refusal(peer, link_id, report)]
        if not self._replay.covers(opened.period):
            report = Report(Reason.PERIOD, self._surroundings.period().to_bytes(4, "big"))
            return [Count("setup_of_another_period"), self._refusal(peer, link_id, report)]
        if not self._replay.take(opened.period, opened.ephemeral):
            report = Report(Reason.REPLAYED)
            return [Count("setup_replayed"), self._refusal(peer, link_id, report)]
        self._taken = Taken(peer, link_id, neighbour, opened, now_s)
        return [Remember(opened.period, opened.ephemeral[:ENTRY_BYTES])]

    def _refused(self, peer: Peer, body: bytes, now_s: float) -> tuple[Report | None, Neighbour]:
        """Why a set-up is not even opened, None if it may be."""
        neighbour = self._surroundings.neighbour(peer)
        rate = STRANGER_SETUPS
        share = self.limits.max_paths_a_stranger
        if neighbour.is_node or neighbour.is_local:
            rate, share = NODE_SETUPS, self.limits.max_paths_a_node
        if not self._may(neighbour, rate, share, now_s):
            return Report(Reason.QUOTA), neighbour
        if not self._puzzle.admit(ephemeral_of(body), puzzle_nonce_of(body)):
            detail = self._puzzle.seed + bytes((self._puzzle.difficulty,))
            return Report(Reason.PUZZLE, detail), neighbour
        return None, neighbour

    def _may(self, neighbour: Neighbour, rate: Rate, share: int, now_s: float) -> bool:
        return (
            self._rates.take(neighbour, rate, now_s) and self._shares.room(neighbour, share).found
        )

    def _make_room(self, neighbour: Neighbour) -> list[Effect]:
        room = self._shares.room(neighbour, self.limits.max_paths)
        if room.instead_of is None:
            return []
        path = self._silent(room.instead_of)
        return [Count("path_gave_way"), *self._close(path, Report(Reason.SHED))]

    def _silent(self, neighbour: Neighbour) -> RelayPath:
        """The path of `neighbour` that was looked at longest ago and has said nothing since; the
        first of them if that takes too long to find."""
        first = path = self._shares.oldest(neighbour)
        for _ in range(LOOKED_AT):
            if path.heard_s == path.seen_s:
                return path
            path.seen_s = path.heard_s
            self._shares.renew(neighbour, path)
            path = self._shares.oldest(neighbour)
        return first

    def _begin(self, taken: Taken) -> list[Effect]:
        peer, link_id, neighbour, opened, now_s = taken
        path = RelayPath(opened.keys, peer, link_id, neighbour, now_s, now_s, now_s)
        if opened.next_node is None:
            path.exit = Exit()
            begun = path.say(payloads.established(FORWARD_WINDOW, BACKWARD_WINDOW))
        else:
            following = Peer(True, opened.next_node)
            begun = path.follow(following, self._entropy(ID_BYTES), opened.body)
            self._enter(following, backward_id(path.out_id), Entry(path, Role.BACK))
        self._enter(peer, link_id, Entry(path, Role.OUT))
        self._paths[path] = None
        self._inwards[peer, path.back_id] = path
        self._shares.add(neighbour, path)
        return [Count("path_built"), begun]

    def _from_owner(self, path: RelayPath, frame: bytes, now_s: float) -> Passed | list[Effect]:
        assert path.exit is not None
        plain = path.peeled(frame)
        passed_on = path.exit.passed_on(plain)
        if passed_on is not None:
            return passed_on
        payload = decode_payload(plain[:PAYLOAD_BYTES])
        known = payload.command == payloads.OPEN and self._surroundings.knows(
            payload.data[:NODE_ID_BYTES]
        )
        return self._carried_out(path, path.exit.from_owner(payload, known, self._entropy, now_s))

    def _rarely(self, entry: Entry, frame: bytes) -> list[Effect]:
        """All that is no cell on its way."""
        kind, body = frame[ID_BYTES], frame[HEADER_BYTES:]
        path = entry.path
        if entry.role == Role.TARGET and path.exit is not None:
            if kind == STREAM:
                said = path.exit.from_target(entry.stream, read_chunk(body))
                return [path.say(payload) for payload in said]
            if kind == STREAM_END:
                return self._stream_over(entry, read_close_body(body).reason)
        elif kind == CLOSE:
            report = read_close_body(body)
            if entry.role == Role.OUT:
                return [Count("path_closed_by_owner"), *self._close(path, None)]
            return [Count("path_closed_by_next"), *self._close(path, report, told=True)]
        raise CellError("a frame of a kind that may not come here")

    def _lost(self, entry: Entry, reason: Reason) -> list[Effect]:
        """The other end of the link on which `entry` stands is gone."""
        if entry.role == Role.TARGET:
            return self._stream_over(entry, Reason.TARGET_UNREACHABLE)
        if entry.role == Role.OUT:
            return self._close(entry.path, None)
        return self._close(entry.path, Report(reason), told=True)

    def _stream_over(self, entry: Entry, reason: Reason, tell: bool = False) -> list[Effect]:
        assert entry.path.exit is not None
        stream = entry.path.exit.streams[entry.stream]
        try:
            effects = self._carried_out(
                entry.path, entry.path.exit.target_ended(entry.stream, reason)
            )
        except CellError:
            # The path forgot the stream before its END found no room.
            self._leave(stream.target, backward_id(stream.link_id))
            effects = self._close(entry.path, Report(Reason.PROTOCOL))
        return [*effects, stream.end(reason)] if tell else effects

    def _carried_out(self, path: RelayPath, outcome: Outcome) -> list[Effect]:
        if outcome.opened is not None and path.exit is not None:
            stream = path.exit.streams[outcome.opened]
            entry = Entry(path, Role.TARGET, outcome.opened)
            self._enter(stream.target, backward_id(stream.link_id), entry)
        if outcome.ended is not None:
            self._leave(outcome.ended.target, backward_id(outcome.ended.link_id))
        return [*outcome.sends, *(path.say(payload) for payload in outcome.say)]

    def _close(self, path: RelayPath, report: Report | None, told: bool = False) -> list[Effect]:
        """Forget `path`; `report` is for its owner, `told` if the following hop is gone."""
        del self._paths[path]
        self._shares.remove(path.neighbour, path)
        if self._inwards.get((path.previous, path.back_id)) is path:
            del self._inwards[path.previous, path.back_id]
        self._leave(path.previous, path.in_id)
        effects: list[Effect] = []
        if path.following is not None:
            self._leave(path.following, backward_id(path.out_id))
            effects.append(Purge(path.following, path.out_id))
        if path.exit is not None:
            for stream in path.exit.streams.values():
                self._leave(stream.target, backward_id(stream.link_id))
        effects.append(path.report(report) if report is not None else path.purge())
        if not told:
            effects += path.close_outwards()
        return effects

    def _enter(self, peer: Peer, link_id: bytes, entry: Entry) -> None:
        self._links.setdefault(peer, {})[link_id] = entry

    def _leave(self, peer: Peer, link_id: bytes) -> None:
        table = self._links.get(peer)
        if table is not None:
            table.pop(link_id, None)
            if not table:
                del self._links[peer]

    @staticmethod
    def _refusal(peer: Peer, link_id: bytes, report: Report) -> Tell:
        return Tell(peer, encode_frame(backward_id(link_id), CLOSE, report.close_body()))
