"""Operators, networks and ages of relays."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.diversity import (
    Conflicts,
    Traits,
    conflicts,
    kin_of,
    network_of,
    seasoned,
    traits_of,
)
from overlay.core.draw import between, exponential
from tests.overlay.relays import relay


@pytest.mark.parametrize(
    ("endpoint", "network"),
    [
        ("tcp://8.8.4.4:9000", "8.8.0.0/16"),
        ("tcp://8.8.200.1:1", "8.8.0.0/16"),
        ("tcp://[2a00:1450:4001::5]:9000", "2a00:1450::/32"),
        ("tcp://[::ffff:8.8.4.4]:9000", "8.8.0.0/16"),
        ("tcp://127.0.0.1:9000", None),
        ("tcp://192.168.1.4:9000", None),
        ("tcp://[fe80::1]:9000", None),
        ("tcp://relay.example.org:9000", None),
        ("tcp://[broken:9000", None),
        ("", None),
    ],
)
def test_network_of_an_endpoint(endpoint: str, network: str | None) -> None:
    assert network_of(endpoint) == network


@given(st.text())
def test_no_endpoint_breaks_the_choice(endpoint: str) -> None:
    network_of(f"tcp://{endpoint}")
    network_of(endpoint)


def test_an_undeclared_operator_is_one_of_its_own() -> None:
    others = kin_of([relay(2), relay(3)])
    assert conflicts(traits_of(relay(1)), others, others, others) == Conflicts()


def test_conflicts_are_with_the_target_then_the_path_then_the_set() -> None:
    node = traits_of(relay(1, "one", "8.8.4.4"))
    assert node == Traits("one", "8.8.0.0/16")
    operator, network = kin_of([relay(2, "one")]), kin_of([relay(3, "two", "8.8.200.1")])
    assert conflicts(node, operator, network) == Conflicts(path_operator=1, set_network=1)
    assert conflicts(node, network, operator) == Conflicts(path_network=1, set_operator=1)
    assert conflicts(node, target=operator) == Conflicts(target_operator=1)
    assert conflicts(node, kin_of([relay(4, "two"), relay(5)])) == Conflicts()
    in_order = [
        Conflicts(set_network=1),
        Conflicts(set_operator=1),
        Conflicts(path_network=1),
        Conflicts(path_operator=1),
        Conflicts(target_network=1),
        Conflicts(target_operator=1),
    ]
    assert in_order == sorted(in_order)
    assert Conflicts(1, 0, 1).plus(Conflicts(1, 1)) == Conflicts(2, 1, 1)


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(0, 1200), st.integers(1, 36))
def test_relays_count_from_an_age_on_or_the_oldest_do(
    registered: list[int], height: int, at_least: int
) -> None:
    relays = [relay(number, registered=block) for number, block in enumerate(registered)]
    chosen = seasoned(relays, height, 600, at_least)
    old = [item for item in relays if item.registered + 600 <= height]
    if len(old) >= at_least:
        assert chosen == old
        return
    assert len(chosen) >= min(at_least, len(relays))
    left_out = [item.registered for item in relays if item not in chosen]
    if chosen and left_out:
        youngest = max(item.registered for item in chosen)
        assert youngest < min(left_out)
        assert sum(item.registered < youngest for item in chosen) < at_least


def test_draws_have_their_range_and_mean() -> None:
    draw = Random(1).randrange
    uniform = [between(2.0, 6.0, draw) for _ in range(4000)]
    assert min(uniform) >= 2.0
    assert max(uniform) < 6.0
    assert sum(uniform) / 4000 == pytest.approx(4.0, abs=0.1)
    gaps = [exponential(2.0, draw) for _ in range(4000)]
    assert min(gaps) >= 0
    assert sum(gaps) / 4000 == pytest.approx(2.0, abs=0.15)
