from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.layer import MAX_HOPS
from overlay.core.setup import (
    HopKeys,
    HopSpec,
    OnionSecrets,
    build_setup,
    ephemeral_of,
    open_setup,
    period_of,
    puzzle_nonce_of,
)
from overlay.core.wire import BODY_BYTES, CellError

LOW_ORDER_KEYS = (
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
)
"""Points of order 1, 2, 4 and 8 (RFC 7748, section 6.1)."""


class Path:
    def __init__(self, seed: int, hops: int, period: int = 5_900_000) -> None:
        rng = Random(seed)
        self.nodes = [rng.randbytes(20) for _ in range(hops)]
        self.secrets = [OnionSecrets.from_bytes(rng.randbytes(32)) for _ in range(hops)]
        self.nonces = [rng.randbytes(8) for _ in range(hops)]
        self.specs = [
            HopSpec(node, secret.public, rng.randbytes(32))
            for node, secret in zip(self.nodes, self.secrets, strict=True)
        ]
        self.filler = rng.randbytes(BODY_BYTES)
        self.body, self.keys = build_setup(self.specs, period, self.nonces, self.filler)

    def bodies(self) -> list[bytes]:
        """What each hop receives."""
        bodies = [self.body]
        for node, secret in zip(self.nodes, self.secrets, strict=True):
            bodies.append(open_setup(bodies[-1], secret, node).body)
        return bodies


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, MAX_HOPS), st.integers(0, 2**32 - 1))
def test_each_hop_learns_its_keys_and_the_next_hop(seed: int, hops: int, period: int) -> None:
    path = Path(seed, hops, period)
    body = path.body
    for index in range(hops):
        assert len(body) == BODY_BYTES
        assert puzzle_nonce_of(body) == path.nonces[index]
        opened = open_setup(body, path.secrets[index], path.nodes[index])
        assert opened.ephemeral == ephemeral_of(body)
        assert opened.keys == path.keys[index]
        assert opened.next_node == (path.nodes[index + 1] if index + 1 < hops else None)
        assert opened.period == period
        body = opened.body
    assert len(body) == BODY_BYTES


def test_every_bit_is_authenticated_at_the_next_hop() -> None:
    path = Path(1, 3)
    body = path.bodies()[1]
    for bit in range(8 * BODY_BYTES):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CellError):
            open_setup(bytes(changed), path.secrets[1], path.nodes[1])


def test_every_truncation_is_refused() -> None:
    path = Path(2, 2)
    for size in range(BODY_BYTES):
        with pytest.raises(CellError):
            open_setup(path.body[:size], path.secrets[0], path.nodes[0])
    with pytest.raises(CellError):
        open_setup(path.body + b"\0", path.secrets[0], path.nodes[0])


def test_a_setup_is_for_one_key_and_one_node() -> None:
    path = Path(3, 2)
    with pytest.raises(CellError):
        open_setup(path.body, path.secrets[1], path.nodes[0])
    with pytest.raises(CellError):
        open_setup(path.body, path.secrets[0], path.nodes[1])


@pytest.mark.parametrize("key", LOW_ORDER_KEYS)
def test_keys_of_low_order_are_refused_at_both_ends(key: bytes) -> None:
    path = Path(4, 1)
    with pytest.raises(CellError):
        open_setup(key + path.body[32:], path.secrets[0], path.nodes[0])
    with pytest.raises(ValueError, match="shared"):
        build_setup([replace(path.specs[0], onion_key=key)], 0, path.nonces, path.filler)


def test_keys_of_hops_and_directions_differ() -> None:
    path = Path(5, 4)
    keys = [key for hop in path.keys for key in (hop.forward, hop.backward)]
    assert len(set(keys)) == 8


def test_keys_are_not_shown() -> None:
    assert repr(HopKeys(b"secret", b"secret")) == "HopKeys()"
    assert "secret" not in repr(HopSpec(b"n", b"k", b"secret"))
    assert "secret" not in repr(Path(6, 1).secrets[0]).replace("OnionSecrets", "")


@pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))
def test_nothing_of_the_hop_count_is_left_at_the_last_hop(hops: int) -> None:
    """The body that the last hop would pass on is filler as good as random at each place: the
    mean of its bits over 200 packets is a half within six standard deviations."""
    total = bytearray()
    for seed in range(200):
        total += Path(seed, hops).bodies()[-1][-512:]
    ones = int.from_bytes(total, "big").bit_count()
    bits = 8 * len(total)
    assert abs(ones - bits / 2) < 6 * (bits / 4) ** 0.5
    assert max(total.count(value) for value in range(256)) < 2 * len(total) / 256


def test_our_own_mistakes_are_value_errors() -> None:
    path = Path(7, 2)
    with pytest.raises(ValueError, match="hops"):
        build_setup([], 0, [], path.filler)
    with pytest.raises(ValueError, match="hops"):
        build_setup(path.specs, 0, path.nonces[:1], path.filler)
    with pytest.raises(ValueError, match="hops"):
        build_setup(path.specs * 3, 0, path.nonces * 3, path.filler)
    with pytest.raises(ValueError, match="size"):
        build_setup(path.specs, 0, path.nonces, path.filler[1:])
    with pytest.raises(ValueError, match="size"):
        build_setup(path.specs, 0, [b"short", *path.nonces[1:]], path.filler)


def test_a_period_has_five_minutes() -> None:
    assert [period_of(s) for s in (0.0, 299.9, 300.0, 1_700_000_000.5)] == [0, 0, 1, 5_666_666]
