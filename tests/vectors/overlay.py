"""What other implementations of the overlay can check themselves against.

`overlay.json` beside this file has a key for each topic, all bytes in hex:

    ids          link ids with those of the other direction
    reasons      by name: value, detail, the body of a CLOSE and the data of an ERROR
    payloads     by command: its fields, and what is encoded, without the zeros at its end
    streams      chunks and the bodies of their STREAM frames, without the zeros at their end
    puzzle       a solution, and the number before it, which is none
    setups       of one to four hops: every secret, and the body at each hop; the last is what the
                 last hop would pass on
    cells_out    of one to four hops: the keys from the nearest hop on, and the body on each link;
                 the last is what the last hop reads
    cells_back   of each speaker on paths of one to four hops: the body on each link, from the
                 speaker's to the owner's
    transcript   a path of three hops from its set-up to its end: the hops' secrets, and all frames
                 in the order in which they went, with sender and receiver

Bytes that stand for random ones are SHA-256("planetserve/vectors" | 00 | label | number 4) one
after the other, cut to length; labels are no part of the protocol.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from overlay.core import payload as payloads
from overlay.core.layer import MAX_HOPS, PAYLOAD_BYTES, originate, peel, seal_back, wrap
from overlay.core.payload import Payload, encode_payload
from overlay.core.puzzle import is_solved, solve_puzzle
from overlay.core.reasons import Reason, Report
from overlay.core.setup import HopSpec, OnionSecrets, build_setup, open_setup
from overlay.core.wire import (
    BODY_BYTES,
    FRAME_BYTES,
    HEADER_BYTES,
    ID_BYTES,
    STREAM_END,
    backward_id,
    encode_frame,
    stream_frame,
)
from tests.overlay.world import OWNER, TARGET, Carried, Owned, World, node_id

PATH = Path(__file__).with_name("overlay.json")
PERIOD = 6_000_000
COUNTER = 258
"""The counter of the cells: a number whose bytes differ."""

PAYLOADS = {
    "OPEN": Payload(payloads.OPEN, 1, TARGET + b"the first chunk"),
    "DATA": Payload(payloads.DATA, 513, b"a chunk"),
    "END": Payload(payloads.END, 2, bytes((Reason.TARGET_REFUSED,))),
    "CREDIT": payloads.credit(300),
    "PING": Payload(payloads.PING, data=b"12345678"),
    "PONG": Payload(payloads.PONG, data=b"12345678"),
    "PAD": Payload(payloads.PAD),
    "ESTABLISHED": payloads.established(128, 256),
    "ERROR": Payload(payloads.ERROR, data=Report(Reason.PERIOD, bytes(3) + b"\7").error_data()),
}
DETAILS = {Reason.PERIOD: 4, Reason.UNKNOWN_NEXT: 16, Reason.PUZZLE: 17}
NAMES = {OWNER: "owner", TARGET: "target", **{node_id(n): f"relay {n}" for n in range(1, 4)}}


def drawn(label: str, count: int) -> bytes:
    """`count` bytes that stand for random ones."""
    blocks = (
        hashlib.sha256(b"planetserve/vectors\0" + label.encode() + number.to_bytes(4, "big"))
        for number in range(-(-count // 32))
    )
    return b"".join(block.digest() for block in blocks)[:count]


def vectors() -> dict[str, Any]:
    return {
        "ids": [_ids(number) for number in range(3)],
        "reasons": {reason.name: _reason(reason) for reason in Reason},
        "payloads": {name: _payload(payload) for name, payload in PAYLOADS.items()},
        "streams": [_stream(size) for size in (0, 3, 1970)],
        "puzzle": _puzzle(),
        "setups": [_setup(hops) for hops in range(1, MAX_HOPS + 1)],
        "cells_out": [_cell_out(hops) for hops in range(1, MAX_HOPS + 1)],
        "cells_back": [
            _cell_back(hops, speaker)
            for hops in range(1, MAX_HOPS + 1)
            for speaker in range(1, hops + 1)
        ],
        "transcript": _transcript(),
    }


def _ids(number: int) -> dict[str, str]:
    link_id = drawn(f"link id {number}", ID_BYTES)
    return {"outwards": link_id.hex(), "back": backward_id(link_id).hex()}


def _reason(reason: Reason) -> dict[str, Any]:
    detail = drawn(f"detail {reason.name}", DETAILS.get(reason, 0))
    report = Report(reason, detail)
    return {
        "value": int(reason),
        "detail": detail.hex(),
        "close_body": _trimmed(report.close_body()),
        "error_data": report.error_data().hex(),
    }


def _payload(payload: Payload) -> dict[str, Any]:
    return {
        "command": payload.command,
        "stream": payload.stream,
        "data": payload.data.hex(),
        "encoded": _trimmed(encode_payload(payload)),
    }


def _stream(size: int) -> dict[str, str]:
    chunk = drawn("chunk", size)
    return {"chunk": chunk.hex(), "body": _trimmed(stream_frame(bytes(8), chunk)[HEADER_BYTES:])}


def _puzzle() -> dict[str, Any]:
    seed, ephemeral, difficulty = drawn("seed", 16), drawn("ephemeral", 32), 12
    nonce = solve_puzzle(seed, ephemeral, difficulty, 0, 1 << 20)
    assert nonce
    wrong = (nonce - 1).to_bytes(8, "big")
    assert not is_solved(seed, ephemeral, wrong, difficulty)
    return {
        "seed": seed.hex(),
        "ephemeral": ephemeral.hex(),
        "difficulty": difficulty,
        "nonce": nonce.to_bytes(8, "big").hex(),
        "no_solution": wrong.hex(),
    }


def _setup(hops: int) -> dict[str, Any]:
    names = [f"setup {hops} hop {index}" for index in range(hops)]
    nodes = [drawn(name + " node", 20) for name in names]
    secrets = [drawn(name + " onion", 32) for name in names]
    onion = [OnionSecrets.from_bytes(secret) for secret in secrets]
    ephemerals = [drawn(name + " ephemeral", 32) for name in names]
    nonces = [drawn(name + " nonce", 8) for name in names]
    filler = drawn(f"setup {hops} filler", BODY_BYTES)
    specs = [HopSpec(n, o.public, e) for n, o, e in zip(nodes, onion, ephemerals, strict=True)]
    body, keys = build_setup(specs, PERIOD, nonces, filler)
    bodies = [body]
    for node, secret in zip(nodes, onion, strict=True):
        bodies.append(open_setup(bodies[-1], secret, node).body)
    return {
        "period": PERIOD,
        "filler": filler.hex(),
        "hops": [
            {
                "node": nodes[index].hex(),
                "onion_secret": secrets[index].hex(),
                "onion_key": onion[index].public.hex(),
                "ephemeral_secret": ephemerals[index].hex(),
                "puzzle_nonce": nonces[index].hex(),
                "forward_key": keys[index].forward.hex(),
                "backward_key": keys[index].backward.hex(),
            }
            for index in range(hops)
        ],
        "bodies": [item.hex() for item in bodies],
    }


def _cell_out(hops: int) -> dict[str, Any]:
    keys = [drawn(f"cell out {hops} key {index}", 32) for index in range(hops)]
    payload, filler = encode_payload(PAYLOADS["OPEN"]), drawn(f"cell out {hops} filler", 48)
    bodies = [wrap(keys, COUNTER, payload, filler)]
    for key in keys:
        bodies.append(peel(key, COUNTER, bodies[-1]))
    return {
        "forward_keys": [key.hex() for key in keys],
        "counter": COUNTER,
        "payload": _trimmed(payload),
        "filler": filler.hex(),
        "bodies": [body.hex() for body in bodies],
    }


def _cell_back(hops: int, speaker: int) -> dict[str, Any]:
    keys = [drawn(f"cell back {hops} key {index}", 32) for index in range(hops)]
    payload = encode_payload(PAYLOADS["DATA" if speaker == hops else "ERROR"])
    bodies = [originate(keys[speaker - 1], COUNTER, payload)]
    for key in reversed(keys[: speaker - 1]):
        bodies.append(seal_back(key, COUNTER, bodies[-1]))
    return {
        "backward_keys": [key.hex() for key in keys],
        "counter": COUNTER,
        "speaker": speaker,
        "payload": _trimmed(payload),
        "bodies": [body.hex() for body in bodies],
    }


class Draws:
    """The entropy of the transcript."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, count: int) -> bytes:
        self._count += 1
        return drawn(f"transcript {self._count}", count)


def _transcript() -> dict[str, Any]:
    world = World(draws=Draws())
    owned = world.build()
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    world.answer(asked, b"answer")
    owned.receive()
    end = Report(Reason.NONE).close_body()
    frame = encode_frame(backward_id(asked.frame[:ID_BYTES]), STREAM_END, end)
    world.deliver(Carried(TARGET, asked.sender, frame, dialled=True))
    owned.receive()
    assert owned.path.end_stream(number) == []
    owned.send(owned.path.ping(b"12345678"))
    owned.receive()
    last = world.members[node_id(3)]
    world.carry_out(last, last.core.shut_down())
    owned.receive()
    keys = [_keys(world, owned, index) for index in range(3)]
    return {
        "hops": keys,
        "frames": [
            {
                "from": NAMES[carried.sender],
                "to": NAMES[carried.receiver],
                "frame": _trimmed(carried.frame),
            }
            for carried in world.carried
        ],
    }


def _keys(world: World, owned: Owned, index: int) -> dict[str, str]:
    node = owned.path.hops[index]
    secret = world.members[node].secrets.secret.private_bytes_raw()
    keys = owned.path._keys[index]
    return {
        "node": node.hex(),
        "onion_secret": secret.hex(),
        "forward_key": keys.forward.hex(),
        "backward_key": keys.backward.hex(),
    }


def _trimmed(data: bytes) -> str:
    """Without the zeros at its end; frames and payloads have one length."""
    assert len(data) in (FRAME_BYTES, BODY_BYTES, PAYLOAD_BYTES)
    return data.rstrip(b"\0").hex()
