"""What other implementations of requests and answers can check themselves against.

`answers.json` beside this file has a key for each topic, all bytes in hex:

    steps        from each number to the step that it is rounded up to
    cloves       of some n and k: a message, the key and the coefficients that share it, the cloves
    requests     to one model node: every secret, the streams, and the keys that both ends derive
    frames       of an answer over four paths: each with its nonce, key, coefficients and chunks
    attaches     to the answer of a request: every secret, the stream, and the key derived

Of k - 1 coefficients of 32 bytes the first belong to x, the next to x^2 and so on; byte j of each
shares byte j of the key. Bytes that stand for random ones are made as in `tests.vectors.overlay`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from overlay.core import frames, sida
from overlay.core.attach import Attach
from overlay.core.padding import step_at_least
from overlay.core.request import DUMMY, QUESTION, RequestSealer, prepare
from overlay.core.setup import OnionSecrets
from tests.overlay.world import TARGET
from tests.vectors.overlay import PERIOD, drawn

PATH = Path(__file__).with_name("answers.json")
THRESHOLDS = ((1, 1), (3, 1), (3, 3), (4, 3), (16, 5))
REQUESTS = {
    "question": (b"what is asked", QUESTION, 0),
    "two cells": (bytes(range(256)) * 22, QUESTION, 16),
    "dummy": (b"", DUMMY, 100),
}
KINDS = {"DATA": frames.DATA, "NOTHING": frames.NOTHING, "END": frames.END}


def vectors() -> dict[str, Any]:
    return {
        "steps": {str(n): step_at_least(n) for n in (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 385, 768)},
        "cloves": [_cloves(n, k) for n, k in THRESHOLDS],
        "requests": {name: _request(name) for name in REQUESTS},
        "frames": [_frame(name, number) for number, name in enumerate(KINDS)],
        "attaches": [_attach(number) for number in range(2)],
    }


def _drawing(label: str) -> Callable[[int], bytes]:
    """Draws of one label, numbered from 0."""
    count = iter(range(1 << 16))
    return lambda size: drawn(f"{label} {next(count)}", size)


def _cloves(n: int, k: int) -> dict[str, Any]:
    message, randomness = drawn("message", 100), drawn(f"clove {n} {k}", 32 * k)
    return {
        "n": n,
        "k": k,
        "message": message.hex(),
        "key": randomness[:32].hex(),
        "coefficients": randomness[32:].hex(),
        "cloves": [clove.encode().hex() for clove in sida.split(message, n, k, randomness)],
    }


def _request(name: str) -> dict[str, Any]:
    payload, kind, least_frames = REQUESTS[name]
    secret = drawn("onion", 32)
    public = OnionSecrets.from_bytes(secret).public
    draw = _drawing(f"request {name}")
    made = prepare(payload, TARGET, public, 4, 3, PERIOD, draw, kind, least_frames)
    return {
        "target": TARGET.hex(),
        "onion_secret": secret.hex(),
        "n": made.n,
        "k": made.k,
        "kind": kind,
        "least_frames": least_frames,
        "period": PERIOD,
        "payload": payload.hex(),
        "streams": [stream.hex() for stream in made.streams],
        "reply_key": made.reply_key.hex(),
        "path_keys": [key.hex() for key in made.path_keys],
    }


def _frame(name: str, number: int) -> dict[str, Any]:
    reply_key = drawn("reply key", 32)
    path_keys = [drawn(f"path key {index}", 32) for index in range(4)]
    nonces = [drawn(f"chunk {number} nonce {index}", 12) for index in range(4)]
    nonce, randomness = drawn(f"frame {number} nonce", 12), drawn(f"frame {number}", 96)
    draws = iter((nonce, randomness))
    data = b"" if name == "NOTHING" else f"some {name}".encode()
    cloves = frames.disperse(KINDS[name], data, number, reply_key, 4, 3, lambda size: next(draws))
    keys = [frames.answer_key(key) for key in path_keys]
    sealed = [frames.seal_clove(keys[i], nonces[i], number, cloves[i]) for i in range(4)]
    return {
        "number": number,
        "kind": KINDS[name],
        "data": data.hex(),
        "reply_key": reply_key.hex(),
        "path_keys": [key.hex() for key in path_keys],
        "chunk_nonces": [item.hex() for item in nonces],
        "nonce": nonce.hex(),
        "key": randomness[:32].hex(),
        "coefficients": randomness[32:].hex(),
        "chunks": [chunk.hex() for chunk in sealed],
    }


def _attach(number: int) -> dict[str, Any]:
    secret = drawn("onion", 32)
    message_id = PERIOD.to_bytes(4, "big") + drawn("message id", 12)
    sealer = RequestSealer(TARGET, OnionSecrets.from_bytes(secret).public, message_id, 2, ())
    wanted = Attach(3, number, 258 + number)
    made = sealer.attach(wanted, _drawing(f"attach {number}"))
    return {
        "target": TARGET.hex(),
        "onion_secret": secret.hex(),
        "message_id": message_id.hex(),
        "clove": wanted.index,
        "number": number,
        "next_frame": wanted.next_frame,
        "stream": made.data.hex(),
        "path_key": made.path_key.hex(),
    }
