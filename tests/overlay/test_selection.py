"""Choice of relays."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from overlay.core.selection import choose_hops
from planetserve.keys import identity_from
from planetserve.records import NodeRecord


def relay(number: int, operator: str = "") -> NodeRecord:
    identity = identity_from(bytes((number,)) * 96)
    return NodeRecord(
        identity.id, identity.public_key, f"relay-{number}", ("relay",), bytes(32), bytes(32),
        {}, "", operator, 1, 1000, None, "trusted",
    )  # fmt: skip


RELAYS = [relay(number, f"operator-{number % 5}") for number in range(1, 13)]


@given(st.integers(0, 2**32))
def test_four_paths_share_no_relay(seed: int) -> None:
    rng = Random(seed)
    used: set[bytes] = set()
    for _ in range(4):
        hops = choose_hops(RELAYS, 3, used, (), rng)
        assert hops is not None
        ids = {hop.id for hop in hops}
        assert len(ids) == 3
        assert not ids & used
        used |= ids
    assert choose_hops(RELAYS, 3, used, (), rng) is None


@given(st.integers(0, 2**32))
def test_a_path_has_three_operators_where_there_are_enough(seed: int) -> None:
    hops = choose_hops(RELAYS, 3, (), (), Random(seed))
    assert hops is not None
    assert len({hop.operator for hop in hops}) == 3


def test_relays_of_one_operator_are_better_than_no_path() -> None:
    same = [relay(number, "one") for number in range(1, 4)]
    assert choose_hops(same, 3, (), (), Random(1)) is not None


@given(st.integers(0, 2**32))
def test_first_hops_are_sticky_while_they_may_be_used(seed: int) -> None:
    first, second = RELAYS[3], RELAYS[7]
    preferred = [first.id, second.id]
    hops = choose_hops(RELAYS, 3, (), preferred, Random(seed))
    assert hops is not None
    assert hops[0] == first
    hops = choose_hops(RELAYS, 3, {first.id}, preferred, Random(seed))
    assert hops is not None
    assert hops[0] == second
