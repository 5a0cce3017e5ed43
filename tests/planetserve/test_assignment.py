"""Who judges whom: unbiased, unforeseeable, and beyond anyone's choice."""

from __future__ import annotations

import hashlib
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve import vrf
from planetserve.assignment import (
    contributor_of,
    first_seed,
    is_assigned,
    next_seed,
    sample_ppm,
    ticket_input,
)

MILLION = 1_000_000


def tickets(count: int) -> list[bytes]:
    return [hashlib.sha512(b"ticket %d" % number).digest() for number in range(count)]


def node(number: int) -> bytes:
    return hashlib.sha256(b"node %d" % number).digest()[:20]


@pytest.mark.parametrize("chance", [10_000, 200_000, 500_000, 900_000])
def test_the_share_of_assigned_tickets_is_the_chance(chance: int) -> None:
    """Of 20,000 draws of one node and of one ticket; the bounds are five deviations."""
    draws = 20_000
    expected = Fraction(chance, MILLION) * draws
    allowed = 5 * float(expected * (1 - Fraction(chance, MILLION))) ** 0.5
    for_a_node = sum(is_assigned(ticket, node(0), chance) for ticket in tickets(draws))
    of_a_ticket = sum(is_assigned(tickets(1)[0], node(n), chance) for n in range(draws))
    assert abs(for_a_node - expected) < allowed
    assert abs(of_a_ticket - expected) < allowed


def test_a_ticket_s_assignments_do_not_hang_together() -> None:
    """That a prober judges one node says nothing about whether it judges another."""
    both = sum(
        is_assigned(ticket, node(0), 500_000) and is_assigned(ticket, node(1), 500_000)
        for ticket in tickets(10_000)
    )
    assert 2_250 < both < 2_750


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=20, max_size=20))
def test_a_higher_chance_only_adds(output: bytes, target: bytes) -> None:
    chances = [1, 100_000, 300_000, 600_000, 999_999, MILLION]
    drawn = [is_assigned(output, target, chance) for chance in chances]
    assert drawn == sorted(drawn)
    assert drawn[-1]
    assert not is_assigned(output, target, 0)


def test_about_as_many_probers_as_the_parameters_say() -> None:
    assert [sample_ppm(8, verifiers) for verifiers in (1, 8, 9, 16, 100)] == [
        MILLION,
        MILLION,
        888_888,
        500_000,
        80_000,
    ]


def test_a_ticket_is_one_for_chain_epoch_and_seed() -> None:
    inputs = {
        ticket_input(chain, epoch, seed)
        for chain in ("a", "b")
        for epoch in (0, 1)
        for seed in (bytes(32), b"s" * 32)
    }
    assert len(inputs) == 8
    key = bytes(32)
    outputs = {vrf.output(vrf.prove(key, item)) for item in inputs}
    assert len(outputs) == 8


def test_seeds_follow_from_chain_and_output() -> None:
    seeds = {first_seed("a"), first_seed("b"), next_seed(first_seed("a"), b"")}
    seeds |= {next_seed(first_seed("a"), ticket) for ticket in tickets(3)}
    assert len(seeds) == 6
    assert {len(seed) for seed in seeds} == {32}
    assert first_seed("a") == first_seed("a")


POWERS = [(b"a", 50), (b"b", 30), (b"c", 20)]


def seed_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def test_who_makes_the_seed_is_drawn_by_power() -> None:
    drawn = Counter(contributor_of(seed_of(n), POWERS, {b"a", b"b", b"c"}) for n in range(5_000))
    assert {name: round(count, -2) / 50 for name, count in drawn.items()} == pytest.approx(
        {b"a": 50, b"b": 30, b"c": 20}, abs=4
    )


@given(st.integers(0, 10_000))
def test_who_withholds_is_replaced_by_one_who_did_not(number: int) -> None:
    seed = seed_of(number)
    first = contributor_of(seed, POWERS, {b"a", b"b", b"c"})
    others = {name for name, _ in POWERS if name != first}
    second = contributor_of(seed, POWERS, others)
    assert second in others
    assert contributor_of(seed, POWERS, {second or b""}) == second
    assert contributor_of(seed, POWERS, ()) is None
    assert contributor_of(seed, POWERS, {b"no verifier"}) is None


@given(st.integers(0, 10_000), st.sets(st.sampled_from([b"a", b"b", b"c"]), min_size=1))
def test_only_the_first_of_those_drawn_decides(number: int, revealed: set[bytes]) -> None:
    """Who is drawn later changes nothing by revealing or not."""
    seed = seed_of(number)
    chosen = contributor_of(seed, POWERS, revealed)
    assert chosen in revealed
    for other in revealed - {chosen}:
        assert contributor_of(seed, POWERS, revealed - {other}) == chosen
