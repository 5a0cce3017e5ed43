"""Paths by values: an owner, three relays and a model node without sockets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult_base

from overlay.core import client_path, exit_payload
from overlay.core.cells import (
    BODY_BYTES,
    CELL_BYTES,
    CLOSE,
    DATA,
    EXCHANGE,
    SETUP,
    Cell,
    CellError,
    chunk_body,
    decode_cell,
    read_chunk,
)
from overlay.core.client_path import BUILDING, CLOSED, OPEN, ClientPath
from overlay.core.effects import Count, Effect, Peer, Send
from overlay.core.exit_payload import ExitPayload
from overlay.core.onion import HopSpec, build_onion, open_onion
from overlay.core.relay import Relay, RelayLimits

CLIENT = Peer(False, b"client")
TARGET = b"T" * 20
RELAYS = (b"A" * 20, b"B" * 20, b"C" * 20)


@dataclass
class World:
    """Frames travel at once and in order; `wire` keeps what each link carried."""

    seed: int = 1
    limits: RelayLimits = field(default_factory=RelayLimits)

    def __post_init__(self) -> None:
        self.entropy = Random(self.seed).randbytes
        self.secrets = [self.entropy(32) for _ in RELAYS]
        self.relays = [
            Relay(secret, self.knows, self.entropy, limits=self.limits) for secret in self.secrets
        ]
        self.wire: list[tuple[int, bytes]] = []
        self.counts: list[tuple[int, str]] = []
        self.to_client: list[bytes] = []
        self.to_target: list[Send] = []
        self.known = {*RELAYS, TARGET}

    def knows(self, node: bytes) -> bool:
        return node in self.known

    def build(self) -> ClientPath:
        hops = [
            (node, crypto_scalarmult_base(secret))
            for node, secret in zip(RELAYS, self.secrets, strict=True)
        ]
        path, sends = client_path.build(hops, 0.0, self.entropy)
        self.from_client(sends)
        return self.receive(path)[0]

    def from_client(self, sends: list[Send]) -> None:
        for send in sends:
            self.at_relay(0, CLIENT, send.frame)

    def at_relay(self, index: int, peer: Peer, frame: bytes, now_s: float = 0.0) -> None:
        self.wire.append((index, frame))
        self.carry_out(index, self.relays[index].frame_arrived(peer, frame, now_s))

    def carry_out(self, index: int, effects: list[Effect]) -> None:
        pending = deque((index, effect) for effect in effects)
        while pending:
            at, effect = pending.popleft()
            if isinstance(effect, Count):
                self.counts.append((at, effect.event))
            elif effect.peer == CLIENT:
                self.to_client.append(effect.frame)
            elif effect.peer.name == TARGET:
                self.to_target.append(effect)
            elif effect.peer.dialled:
                to = RELAYS.index(effect.peer.name)
                self.wire.append((to, effect.frame))
                arrived = self.relays[to].frame_arrived(Peer(False, RELAYS[at]), effect.frame, 0.0)
                pending.extend((to, e) for e in arrived)
            else:
                to = RELAYS.index(effect.peer.name)
                self.wire.append((to, effect.frame))
                arrived = self.relays[to].frame_arrived(Peer(True, RELAYS[at]), effect.frame, 0.0)
                pending.extend((to, e) for e in arrived)

    def receive(self, path: ClientPath) -> tuple[ClientPath, list[ExitPayload]]:
        payloads = []
        for frame in self.to_client:
            path, payload = client_path.cell_arrived(path, decode_cell(frame))
            if payload is not None:
                payloads.append(payload)
        self.to_client.clear()
        return path, payloads

    def send(self, path: ClientPath, payload: ExitPayload) -> ClientPath:
        path, sends = client_path.send(path, payload, self.entropy)
        self.from_client(sends)
        return path

    def open_paths(self) -> list[int]:
        return [len(relay.paths) for relay in self.relays]


def deliver(chunk: bytes, exchange: bytes = b"exchange") -> ExitPayload:
    return ExitPayload(exit_payload.DELIVER, exchange, TARGET, chunk)


def test_a_path_opens_and_carries_both_ways() -> None:
    world = World()
    path = world.build()
    assert path.phase == OPEN
    path = world.send(path, deliver(b"question"))
    (sent,) = world.to_target
    cell = decode_cell(sent.frame)
    assert read_chunk(cell.body) == b"question"
    reply = Cell(cell.link_id, EXCHANGE, 0, chunk_body(b"answer", bytes(BODY_BYTES)))
    world.at_relay(2, Peer(True, TARGET), reply.encode())
    path, payloads = world.receive(path)
    assert payloads == [ExitPayload(exit_payload.REPLY, b"exchange", bytes(20), b"answer")]


def test_every_frame_has_one_size_and_every_link_its_own_ids() -> None:
    world = World()
    path = world.build()
    for number in range(5):
        path = world.send(path, deliver(b"%d" % number))
    assert {len(frame) for _, frame in world.wire} == {CELL_BYTES}
    ids = [{frame[:16] for at, frame in world.wire if at == index} for index in range(3)]
    assert not any(first & second for first, second in pairwise(ids))


def test_no_relay_but_the_last_sees_the_chunk_and_none_sees_a_known_pattern() -> None:
    world = World()
    world.send(world.build(), deliver(b"a very particular question"))
    assert not any(b"particular" in frame for _, frame in world.wire)


@given(st.integers(0, CELL_BYTES * 8 - 1))
@settings(max_examples=150)
def test_any_altered_bit_of_a_cell_closes_the_path_or_is_dropped(bit: int) -> None:
    world = World()
    path = world.build()
    path, sends = client_path.send(path, deliver(b"question"), world.entropy)
    frame = bytearray(sends[0].frame)
    frame[bit // 8] ^= 1 << bit % 8
    world.from_client([Send(sends[0].peer, bytes(frame))])
    assert world.to_target == []


def test_a_tampered_cell_closes_the_path_at_every_relay_and_tells_the_owner() -> None:
    world = World()
    path = world.build()
    path, sends = client_path.send(path, deliver(b"question"), world.entropy)
    body = bytearray(sends[0].frame)
    body[100] ^= 1
    world.from_client([Send(sends[0].peer, bytes(body))])
    path, _ = world.receive(path)
    assert path.phase == CLOSED
    assert world.open_paths() == [0, 0, 0]


def test_a_replayed_cell_closes_the_path() -> None:
    world = World()
    path = world.build()
    path, sends = client_path.send(path, deliver(b"question"), world.entropy)
    world.from_client([*sends, *sends])
    assert len([s for s in world.to_target if decode_cell(s.frame).command == EXCHANGE]) == 1
    assert world.open_paths() == [0, 0, 0]


def test_a_replayed_set_up_packet_is_dropped() -> None:
    world = World()
    world.build()
    setup = next(frame for at, frame in world.wire if at == 0 and frame[16] == SETUP)
    again = replace(decode_cell(setup), link_id=b"another id......")
    world.at_relay(0, CLIENT, again.encode())
    assert (0, "setup_replayed") in world.counts
    assert world.open_paths() == [1, 1, 1]


@given(st.binary(max_size=64) | st.binary(min_size=CELL_BYTES, max_size=CELL_BYTES))
def test_garbage_is_dropped_and_counted(frame: bytes) -> None:
    world = World()
    world.at_relay(0, CLIENT, frame)
    assert len(world.counts) >= 1
    assert world.open_paths() == [0, 0, 0]


def test_an_unknown_next_relay_is_refused() -> None:
    world = World()
    world.known.discard(RELAYS[1])
    path = world.build()
    assert path.phase == CLOSED
    assert world.open_paths() == [0, 0, 0]


def test_an_unknown_target_closes_the_path() -> None:
    world = World()
    path = world.build()
    payload = ExitPayload(exit_payload.DELIVER, b"exchange", b"X" * 20, b"hi")
    path, _ = world.receive(world.send(path, payload))
    assert path.phase == CLOSED


def test_closing_reaches_every_relay_and_the_target() -> None:
    world = World()
    path = world.send(world.build(), deliver(b"question"))
    path, sends = client_path.close(path, world.entropy)
    world.from_client(sends)
    assert world.open_paths() == [0, 0, 0]
    assert len(world.to_target) == 2
    assert not any(relay._exchanges or relay._backward for relay in world.relays)


def test_a_gone_relay_closes_the_path_at_its_neighbours() -> None:
    world = World()
    path = world.build()
    world.carry_out(0, world.relays[0].peer_gone(Peer(True, RELAYS[1])))
    path, _ = world.receive(path)
    assert path.phase == CLOSED
    assert world.open_paths()[0] == 0


def test_a_gone_target_ends_its_exchange_only() -> None:
    world = World()
    path = world.send(world.build(), deliver(b"question"))
    world.carry_out(2, world.relays[2].peer_gone(Peer(True, TARGET)))
    path, payloads = world.receive(path)
    assert [payload.command for payload in payloads] == [exit_payload.END]
    assert path.phase == OPEN


def test_paths_expire() -> None:
    world = World()
    path = world.build()
    world.carry_out(1, world.relays[1].tick(10_000.0))
    path, _ = world.receive(path)
    assert path.phase == CLOSED
    assert world.open_paths() == [0, 0, 0]


def test_quotas_refuse_a_neighbour_that_asks_for_too_much() -> None:
    world = World(limits=RelayLimits(max_paths_per_peer=2))
    phases = [world.build().phase for _ in range(3)]
    assert phases == [OPEN, OPEN, CLOSED]


def test_too_many_exchanges_close_the_path() -> None:
    world = World()
    path = world.build()
    for number in range(17):
        path = world.send(path, deliver(b"x", b"%08d" % number))
    assert world.open_paths() == [0, 0, 0]


def test_a_close_from_a_stranger_changes_nothing() -> None:
    world = World()
    world.build()
    setup = next(frame for at, frame in world.wire if at == 0 and frame[16] == SETUP)
    stranger = Cell(setup[:16], CLOSE, 0, bytes(BODY_BYTES))
    world.at_relay(0, Peer(False, b"stranger"), stranger.encode())
    assert world.open_paths() == [1, 1, 1]


def test_a_path_that_was_not_confirmed_takes_no_payload() -> None:
    world = World()
    hops = [(RELAYS[0], crypto_scalarmult_base(world.secrets[0]))]
    path, _ = client_path.build(hops, 0.0, world.entropy)
    assert path.phase == BUILDING
    with pytest.raises(ValueError, match="not open"):
        client_path.send(path, deliver(b"x"), world.entropy)


@given(st.integers(1, 5))
def test_the_onion_opens_hop_by_hop_and_keeps_its_size(hops: int) -> None:
    entropy = Random(hops).randbytes
    secrets = [entropy(32) for _ in range(hops)]
    specs = [
        HopSpec(bytes((number,)) * 20, crypto_scalarmult_base(secret), entropy(32))
        for number, secret in enumerate(secrets)
    ]
    body, keys = build_onion(specs, 120, entropy(BODY_BYTES))
    for number, secret in enumerate(secrets):
        assert len(body) == BODY_BYTES
        opened = open_onion(body, secret, entropy(BODY_BYTES))
        assert opened.keys == keys[number]
        assert opened.instructions.position == number
        following = specs[number + 1].node if number + 1 < hops else None
        assert opened.instructions.next_node == following
        body = opened.forward_onion


@given(st.integers(0, 111 * 8 + 7))
@settings(max_examples=100)
def test_every_flipped_bit_of_the_own_slot_is_refused(bit: int) -> None:
    entropy = Random(3).randbytes
    secret = entropy(32)
    specs = [HopSpec(RELAYS[0], crypto_scalarmult_base(secret), entropy(32))]
    body, _keys = build_onion(specs, 120, entropy(BODY_BYTES))
    damaged = bytearray(body)
    damaged[bit // 8] ^= 1 << bit % 8
    if bit == 31 * 8 + 7:
        # X25519 ignores the key's top bit, but the salt of the key derivation does not.
        assert damaged[31] != body[31]
    with pytest.raises(CellError):
        open_onion(bytes(damaged), secret, entropy(BODY_BYTES))


def test_data_before_set_up_is_unknown() -> None:
    world = World()
    world.at_relay(0, CLIENT, Cell(bytes(16), DATA, 0, bytes(BODY_BYTES)).encode())
    assert world.counts == [(0, "cell_unknown_path")]


def test_no_hop_can_mark_a_set_up_packet_for_a_later_one() -> None:
    entropy = Random(8).randbytes
    secrets = [entropy(32) for _ in RELAYS]
    specs = [
        HopSpec(node, crypto_scalarmult_base(secret), entropy(32))
        for node, secret in zip(RELAYS, secrets, strict=True)
    ]
    body, _ = build_onion(specs, 120, entropy(BODY_BYTES))
    forward = bytearray(open_onion(body, secrets[0], entropy(BODY_BYTES)).forward_onion)
    for byte in range(112, 560, 37):  # in the slots behind the one that the second hop opens
        marked = bytearray(forward)
        marked[byte] ^= 1
        with pytest.raises(CellError):
            open_onion(bytes(marked), secrets[1], entropy(BODY_BYTES))


def test_a_relay_cannot_speak_to_another_by_skipping_counters() -> None:
    world = World()
    path = world.build()
    skipped = replace(path, sent=5)
    path, _ = world.receive(world.send(skipped, deliver(b"x")))
    assert path.phase == CLOSED
    assert world.to_target == []


@pytest.mark.parametrize(("started_s", "now_s"), [(0.0, 500.0), (50.0, 60.0), (-1000.0, -500.0)])
def test_set_up_packets_from_another_time_are_refused(started_s: float, now_s: float) -> None:
    """Late ones, ones from before a restart, and ones of a clock that is far ahead."""
    world = World()
    hops = [(RELAYS[0], crypto_scalarmult_base(world.secrets[0]))]
    _, sends = client_path.build(hops, 0.0, world.entropy)
    relay = Relay(world.secrets[0], world.knows, world.entropy, started_s)
    effects = relay.frame_arrived(CLIENT, sends[0].frame, now_s)
    assert Count("setup_expired") in effects
    assert not relay.paths
