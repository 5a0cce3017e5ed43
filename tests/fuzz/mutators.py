"""Mutations that keep an input well formed, so that they get past its decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from planetserve.encoding import EncodingError, decode, encode

Mutator = Callable[[bytes, Random], bytes]
INTEGERS = (0, 1, -1, 127, 255, 256, 999_999, 1_000_000, 1 << 32, (1 << 63) - 1, 1 << 63)
TEXTS = ("", " ", "model", "relay", "verifier", "tcp://127.0.0.1:7000", "\u00e9", "a" * 200)
OTHERS: tuple[Any, ...] = (None, True, False, b"", {}, [], {"kind": "join"}, [{}], bytes(20))


def mutated(value: Any, random: Random) -> Any:
    """`value` with one of its parts changed, removed, doubled or replaced."""
    if random.random() < 0.1:
        return random.choice((*INTEGERS, *TEXTS, *OTHERS))
    if isinstance(value, dict) and value:
        name = random.choice(sorted(value))
        if random.random() < 0.1:
            return {key: item for key, item in value.items() if key != name}
        return {**value, name: mutated(value[name], random)}
    if isinstance(value, list) and value:
        place = random.randrange(len(value))
        if random.random() < 0.3:
            return random.choice((value[:place], value + value[place:], value[place:]))
        return [*value[:place], mutated(value[place], random), *value[place + 1 :]]
    if type(value) is int:
        return random.choice((value + 1, value - 1, value * 2, random.choice(INTEGERS)))
    if isinstance(value, bytes) and value:
        place = random.randrange(len(value))
        changed = bytes([value[place] ^ 1 << random.randrange(8)])
        return random.choice((value[:place] + changed + value[place + 1 :], value[:-1]))
    if isinstance(value, str) and value:
        place = random.randrange(len(value))
        return random.choice((value[:place] + value[place + 1 :], random.choice(TEXTS)))
    return random.choice((*INTEGERS, *TEXTS, *OTHERS))


def transactions(data: bytes, random: Random) -> bytes:
    """Another sender or place, or other data of the same kind."""
    if len(data) < 3:
        return data
    head, rest = bytearray(data[:2]), data[2:]
    if random.random() < 0.3:
        head[random.randrange(2)] = random.randrange(256)
    try:
        return bytes(head) + encode(mutated(decode(rest), random))
    except (EncodingError, OverflowError, UnicodeEncodeError):
        return bytes(head) + rest


def light(data: bytes, random: Random) -> bytes:
    if len(data) < 2:
        return data
    try:
        if data[0] == 0:
            return data[:1] + encode(mutated(decode(data[1:]), random))
        return data[:1] + json.dumps(_plain(mutated(json.loads(data[1:]), random))).encode()
    except (EncodingError, OverflowError, ValueError, RecursionError):
        return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def guard_file(data: bytes, random: Random) -> bytes:
    try:
        return json.dumps(_plain(mutated(json.loads(data), random))).encode()
    except (OverflowError, ValueError, RecursionError):
        return data


def program(data: bytes, random: Random) -> bytes:
    """A byte is another, or some bytes are missing, there twice, or elsewhere."""
    if not data:
        return data
    start = random.randrange(len(data))
    end = min(start + random.choice((1, 1, 2, 4, 8, 16, 32)), len(data))
    before, some, after = data[:start], data[start:end], data[end:]
    place = random.randrange(len(before + after) + 1)
    rest = before + after
    return random.choice(
        (
            before + bytes((random.randrange(256),)) + data[start + 1 :],
            rest,
            before + some + some + after,
            rest[:place] + some + rest[place:],
        )
    )


PROGRAMS = (
    *("relay", "client_path", "inbox", "setup", "answer", "cell", "clove", "attach", "request"),
    *("frame", "payload", "reasons"),
)
MUTATORS: Mapping[str, Mutator] = {
    "transactions": transactions,
    "light": light,
    "guard_file": guard_file,
    **dict.fromkeys(PROGRAMS, program),
}
