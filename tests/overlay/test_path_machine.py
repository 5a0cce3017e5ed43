"""Paths from their set-up to their end, under any order of events: links that are slow, relays that
die, frames that are altered, dropped, repeated, reordered.

Whatever happens, nobody reads a byte that the other end did not send in this place, tables agree,
bounds hold, and nothing is left when all is closed. A path that still answers a ping at the end has
lost nothing; where nothing was done to a path it does answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlay.core.client_path import (
    CLOSED,
    OPEN,
    TRANSITIONS,
    Broken,
    Chunk,
    Opened,
    PathEvent,
    Pong,
    StreamOver,
)
from overlay.core.effects import Peer, Send
from overlay.core.fair_queue import MAX_FRAMES_AN_ID
from overlay.core.reasons import Reason, Report
from overlay.core.relay import RelayLimits
from overlay.core.relay_exit import FORWARD_WINDOW, MAX_STREAMS, MAX_WAITING
from overlay.core.wire import (
    CELL,
    FRAME_BYTES,
    ID_BYTES,
    SETUP,
    STREAM,
    STREAM_END,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
)
from tests.overlay.checked import CheckedRelay, checked_exits
from tests.overlay.world import Carried, Owned, World, node_id, pad

RELAYS = [node_id(number) for number in range(1, 5)]
TARGETS = (b"T" * 20, b"U" * 20)
OWNERS = (b"alice", b"bob")
TOKEN_BYTES = 8
LIMITS = RelayLimits(
    max_paths=6, max_paths_a_node=6, max_paths_a_stranger=5, path_life_s=900.0, idle_s=300.0
)
MANY = 1970 * (FORWARD_WINDOW + 20)

ENDS = st.sampled_from([*RELAYS, *OWNERS])


@dataclass
class Talk:
    """A stream as both of its ends have it; the model that the relays are held against."""

    number: int
    asked: bytes
    arrived: bytes = b""
    answered: list[bytes] = field(default_factory=list)
    received: int = 0
    at_target: Carried | None = None
    """Its first frame at the model node."""
    ended_by_owner: bool = False
    ended_at_target: bool = False
    over: bool = False


@dataclass
class Held:
    """A path with its talks, by number; `flooded` if a model node sent more than may wait."""

    owned: Owned
    talks: dict[int, Talk] = field(default_factory=dict)
    flooded: bool = False
    pongs: int = 0
    phase: str = "BUILDING"


def altered(carried: Carried, place: int) -> Carried:
    frame = bytearray(carried.frame)
    frame[place // 8 % FRAME_BYTES] ^= 1 << place % 8
    return replace(carried, frame=bytes(frame))


class PathMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = checked_exits()
        self.patch.__enter__()
        self.world = World(relays=0, targets=TARGETS, limits=LIMITS, relay=CheckedRelay)
        for node in RELAYS:
            self.world.add(node)
        # So that each chunk's leaving for a model node is told to the relay.
        self.world.held |= {(node, target) for node in RELAYS for target in TARGETS}
        self.paths: list[Held] = []
        self.by_token: dict[bytes, Talk] = {}
        self.by_link: dict[bytes, Talk] = {}
        self.tokens = 0
        self.trouble = False
        """Something was done that may end paths or lose frames."""

    # What owners do.

    @initialize()
    def two_paths_are_open(self) -> None:
        for hops, owner in zip((RELAYS[:3], RELAYS[2::-1]), OWNERS, strict=True):
            self.begin(hops, owner)
            self.owner_reads(self.paths[-1])
            self.open_stream(self.paths[-1], 5000, TARGETS[0])
        self.all_model_nodes_read()

    @rule(
        hops=st.permutations(RELAYS),
        count=st.integers(1, 4),
        owner=st.sampled_from(OWNERS),
        reads=st.booleans(),
    )
    def a_path_is_begun(self, hops: list[bytes], count: int, owner: bytes, reads: bool) -> None:
        if not any(node in self.world.gone for node in hops[:count]):
            self.begin(hops[:count], owner)
            if reads:
                self.owner_reads(self.paths[-1])

    def begin(self, hops: list[bytes], owner: bytes) -> None:
        self.paths.append(Held(self.world.begin(hops, owner)))

    def open_path(self, data: st.DataObject) -> Held | None:
        found = [held for held in self.paths if held.owned.path.phase == OPEN]
        return found[data.draw(st.integers(0, len(found) - 1))] if found else None

    @rule(
        data=st.data(),
        size=st.sampled_from([0, 1, 1942, 1943, 5000, MANY]),
        to=st.sampled_from((*TARGETS, *TARGETS, b"?" * 20)),
        reads=st.booleans(),
    )
    def a_stream_is_opened(self, data: st.DataObject, size: int, to: bytes, reads: bool) -> None:
        held = self.open_path(data)
        if held is None:
            return
        self.open_stream(held, size, to)
        if reads:
            self.all_model_nodes_read()

    def open_stream(self, held: Held, size: int, to: bytes) -> None:
        self.tokens += 1
        token = self.tokens.to_bytes(TOKEN_BYTES, "big")
        asked = token + Random(self.tokens).randbytes(size)
        number, sends = held.owned.path.open_stream(to, asked)
        held.talks[number] = self.by_token[token] = Talk(number, asked)
        if to not in TARGETS:
            held.talks[number].ended_by_owner = True
        self.to_relays(held, sends)

    @rule(data=st.data())
    def a_stream_is_ended(self, data: st.DataObject) -> None:
        held = self.open_path(data)
        if held is None or not held.talks:
            return
        talk = held.talks[data.draw(st.sampled_from(sorted(held.talks)))]
        talk.ended_by_owner = True
        self.to_relays(held, held.owned.path.end_stream(talk.number))

    @rule(data=st.data(), ping=st.booleans())
    def the_owner_pings_or_pads(self, data: st.DataObject, ping: bool) -> None:
        held = self.open_path(data)
        if held is not None:
            path = held.owned.path
            self.to_relays(held, path.ping(b"12345678") if ping else pad(path))

    @rule(data=st.data())
    def a_path_is_closed(self, data: st.DataObject) -> None:
        held = self.paths[data.draw(st.integers(0, len(self.paths) - 1))]
        self.to_relays(held, held.owned.path.close())
        self.phase_changed(held, None)

    def to_relays(self, held: Held, sends: list[Send]) -> None:
        if held.owned.path.first.name not in self.world.gone:
            held.owned.send(sends)

    @rule()
    def all_owners_read(self) -> None:
        for held in self.paths:
            self.owner_reads(held)

    @rule(data=st.data())
    def an_owner_reads(self, data: st.DataObject) -> None:
        self.owner_reads(self.paths[data.draw(st.integers(0, len(self.paths) - 1))])

    def owner_reads(self, held: Held) -> None:
        for event in held.owned.receive():
            self.heard(held, event)
        assert held.phase == held.owned.path.phase

    def heard(self, held: Held, event: PathEvent) -> None:
        match event:
            case Opened() | Broken():
                self.phase_changed(held, type(event))
            case Chunk():
                talk = held.talks[event.stream]
                assert talk.answered[talk.received] == event.data
                talk.received += 1
            case StreamOver():
                held.talks[event.stream].over = True
            case Pong():
                held.pongs += 1
        if isinstance(event, Broken) and not self.trouble:
            allowed = [Reason.QUOTA, Reason.SHED]
            if held.flooded:
                allowed.append(Reason.PROTOCOL)
            assert event.report.reason in allowed
            assert event.origin is not None or event.report.reason != Reason.PROTOCOL

    def phase_changed(self, held: Held, event: type[PathEvent] | None) -> None:
        phase = OPEN if event is Opened else CLOSED
        if phase != held.phase:
            assert (held.phase, event, phase) in TRANSITIONS
        held.phase = phase

    # What model nodes do.

    @rule(node=st.sampled_from(RELAYS), most=st.sampled_from([1, 40, 400]))
    def model_nodes_read_from_a_relay(self, node: bytes, most: int) -> None:
        for target in TARGETS:
            self.world.let_go(node, target, most)
        self.targets_read()

    @rule()
    def all_model_nodes_read(self) -> None:
        for node in RELAYS:
            self.model_nodes_read_from_a_relay(node, 1000)

    def targets_read(self) -> None:
        for target in TARGETS:
            for carried in self.world.at_target(target):
                self.target_got(carried)

    def target_got(self, carried: Carried) -> None:
        frame = decode_frame(carried.frame)
        if frame.kind == STREAM_END:
            if frame.link_id in self.by_link:
                self.by_link[frame.link_id].ended_at_target = True
            return
        assert frame.kind == STREAM
        chunk = read_chunk(frame.body)
        talk = self.by_link.get(frame.link_id)
        if talk is None:
            talk = self.by_link[frame.link_id] = self.by_token[chunk[:TOKEN_BYTES]]
            assert talk.at_target is None
            talk.at_target = carried
        talk.arrived += chunk
        assert talk.asked.startswith(talk.arrived)

    @rule(data=st.data(), count=st.sampled_from([1, 3, 256, 512]), size=st.sampled_from([0, 9]))
    def a_model_node_answers(self, data: st.DataObject, count: int, size: int) -> None:
        talks = [
            (held, talk)
            for held in self.paths
            for talk in held.talks.values()
            if talk.at_target is not None and not talk.ended_at_target
        ]
        if not talks:
            return
        held, talk = talks[data.draw(st.integers(0, len(talks) - 1))]
        assert talk.at_target is not None
        for _ in range(count):
            number = len(talk.answered)
            talk.answered.append(number.to_bytes(4, "big") + bytes(size))
            self.world.answer(talk.at_target, talk.answered[-1])
        waiting = sum(len(t.answered) - t.received for t in held.talks.values())
        held.flooded |= waiting > MAX_WAITING

    @rule(data=st.data())
    def a_model_node_ends_a_stream(self, data: st.DataObject) -> None:
        talks = [talk for talk in self.by_link.values() if not talk.ended_at_target]
        if not talks:
            return
        talk = talks[data.draw(st.integers(0, len(talks) - 1))]
        assert talk.at_target is not None
        talk.ended_at_target = True
        body = Report(data.draw(st.sampled_from([Reason.NONE, Reason.TARGET_REFUSED]))).close_body()
        frame = encode_frame(backward_id(talk.at_target.frame[:ID_BYTES]), STREAM_END, body)
        at = talk.at_target
        self.world.deliver(Carried(at.receiver, at.sender, frame, dialled=True))

    # What the network does.

    @rule(sender=st.sampled_from(RELAYS), receiver=ENDS)
    def a_link_is_slow(self, sender: bytes, receiver: bytes) -> None:
        self.world.held.add((sender, receiver))

    @rule(data=st.data(), most=st.sampled_from([1, 10, 1000]))
    def a_link_lets_frames_go(self, data: st.DataObject, most: int) -> None:
        sender, receiver = data.draw(st.sampled_from(sorted(self.world.held)))
        if self.world.let_go(sender, receiver, most) < most and receiver not in TARGETS:
            self.world.held.discard((sender, receiver))

    @rule()
    def a_second_passes(self) -> None:
        self.world.tick(1.0)

    @rule(data=st.data())
    def something_breaks(self, data: st.DataObject) -> None:
        """One rule, so that most runs and most steps are at peace."""
        self.trouble = True
        node, owner = data.draw(st.sampled_from(RELAYS)), data.draw(st.sampled_from(OWNERS))
        match data.draw(st.sampled_from(["tampering", "tampering", "relay", "connection", "time"])):
            case "relay":
                self.a_relay_dies(node, data.draw(st.booleans()))
            case "connection":
                self.an_owner_loses_its_connection(owner, node)
            case "time":
                self.world.tick(data.draw(st.sampled_from([11.0, 250.0])))
            case _:
                place = data.draw(st.integers(0, 8 * FRAME_BYTES - 1) | st.integers(0, 79))
                how = data.draw(st.sampled_from(["alter", "drop", "repeat", "swap"]))
                self.the_next_frame_is_tampered_with(data.draw(ENDS), place, how)

    def a_relay_dies(self, node: bytes, orderly: bool) -> None:
        if node in self.world.gone:
            return
        member = self.world.members[node]
        if orderly:
            self.world.carry_out(member, member.core.shut_down())
        self.world.kill(node)
        for held in self.paths:
            if held.owned.path.first.name == node:
                held.owned.path.close()
                self.phase_changed(held, None)
        for talk in self.by_link.values():
            if talk.at_target is not None and talk.at_target.sender == node:
                talk.ended_at_target = True

    @precondition(lambda self: self.world.gone)
    @rule()
    def a_relay_returns(self) -> None:
        node = self.world.gone.pop()
        self.world.add(node)

    def an_owner_loses_its_connection(self, owner: bytes, node: bytes) -> None:
        if node not in self.world.gone:
            member = self.world.members[node]
            member.queues.drop(Peer(False, owner))
            self.world.carry_out(member, member.core.peer_gone(Peer(False, owner)))
        for held in self.paths:
            if held.owned.owner == owner and held.owned.path.first.name == node:
                held.owned.path.close()
                self.phase_changed(held, None)

    def the_next_frame_is_tampered_with(self, receiver: bytes, place: int, how: str) -> None:
        """A relay on the way does it: links keep frames as they are."""
        kept: list[Carried] = []

        def wire(carried: Carried) -> list[Carried]:
            if carried.receiver != receiver or carried.sender in TARGETS:
                return [carried]
            if how == "swap" and not kept:
                kept.append(carried)
                return []
            self.world.wire = lambda carried: [carried]
            if how == "alter":
                return [altered(carried, place)]
            if how == "drop":
                return []
            return [carried, carried] if how == "repeat" else [carried, *kept]

        self.world.wire = wire

    @rule(node=st.sampled_from(RELAYS), kind=st.sampled_from([SETUP, CELL, STREAM]), data=st.data())
    def a_stranger_sends_noise(self, node: bytes, kind: int, data: st.DataObject) -> None:
        seen = [c.frame for c in self.world.carried[-50:]] or [bytes(FRAME_BYTES)]
        frame = bytearray(seen[data.draw(st.integers(0, len(seen) - 1))])
        frame[ID_BYTES] = kind
        counts = self.world.members[node].counts
        before = counts["path_built"]
        self.world.deliver(Carried(b"stranger", node, bytes(frame)))
        # A set-up that was refused unopened is as good as new in any hand.
        self.trouble |= counts["path_built"] != before
        self.world.arrived.pop(b"stranger", None)

    # What must hold.

    @invariant()
    def owners_hold_no_more_than_they_may(self) -> None:
        for held in self.paths:
            path = held.owned.path
            assert path._window.credits <= path._window.limit <= FORWARD_WINDOW
            if path.phase == CLOSED:
                assert not path._held
                assert not path._streams
            elif path._held:
                assert path._window.credits == 0

    @invariant()
    def queues_are_bounded(self) -> None:
        for member in self.world.line:
            for queue in member.queues._queues.values():
                assert all(len(waiting) <= MAX_FRAMES_AN_ID for waiting in queue._frames.values())

    @invariant()
    def model_nodes_read_what_was_sent(self) -> None:
        self.targets_read()

    def teardown(self) -> None:
        try:
            self.all_is_read_and_closed()
        finally:
            self.patch.__exit__(None, None, None)

    def all_is_read_and_closed(self) -> None:
        self.world.wire = lambda carried: [carried]
        self.settle()
        self.world.tick(3.0)  # as many pings as there may be
        for held in self.paths:
            if held.owned.path.phase == OPEN:
                held.pongs = 0
                self.to_relays(held, held.owned.path.ping(b"12345678"))
        self.settle()
        for held in self.paths:
            if held.owned.path.phase == OPEN:
                assert held.pongs or self.trouble
                if held.pongs:
                    self.nothing_was_lost(held)
            self.to_relays(held, held.owned.path.close())
            self.phase_changed(held, None)
        self.settle()
        for member in self.world.line:
            if not self.trouble and member.node not in self.world.gone:
                assert not member.core._paths
        self.world.tick(LIMITS.path_life_s + 1)
        self.settle()
        for member in self.world.line:
            if member.node not in self.world.gone:
                assert not member.core._links
                assert not member.core._paths
                assert len(member.core._shares) == 0
                assert member.queues.bytes == 0
        if not self.trouble:
            assert all(talk.ended_at_target for talk in self.by_link.values())

    def settle(self) -> None:
        """Until nothing is under way any more."""
        moved = 1
        while moved:
            moved = sum(self.world.let_go(*link) for link in sorted(self.world.held))
            self.targets_read()
            self.all_owners_read()

    def nothing_was_lost(self, held: Held) -> None:
        for talk in held.talks.values():
            if talk.ended_by_owner or talk.over:
                continue
            assert talk.arrived == talk.asked
            assert talk.received == len(talk.answered) or talk.ended_at_target


PathMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestPathMachine = PathMachine.TestCase


def test_sixteen_streams_of_two_owners_cross_slow_links_whole() -> None:
    """The machine's own rules, in an order that fills every window."""
    machine = PathMachine()
    machine.begin(RELAYS[:3], OWNERS[0])
    (held,) = machine.paths
    machine.owner_reads(held)
    for link in ((RELAYS[1], RELAYS[2]), (RELAYS[1], RELAYS[0]), (RELAYS[0], OWNERS[0])):
        machine.a_link_is_slow(*link)
    for number in range(1, MAX_STREAMS + 1):
        asked = number.to_bytes(TOKEN_BYTES, "big") + Random(number).randbytes(30_000)
        stream, sends = held.owned.path.open_stream(TARGETS[number % 2], asked)
        held.talks[stream] = machine.by_token[asked[:TOKEN_BYTES]] = Talk(stream, asked)
        held.owned.send(sends)
    machine.settle()
    for talk in held.talks.values():
        assert talk.arrived == talk.asked
        assert talk.at_target is not None
        for number in range(20):
            talk.answered.append(b"%d" % number)
            machine.world.answer(talk.at_target, talk.answered[-1])
    machine.settle()
    machine.nothing_was_lost(held)
    assert not machine.trouble
    machine.teardown()
