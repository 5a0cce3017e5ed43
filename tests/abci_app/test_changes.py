"""Which changes are possible, and how far they move power."""

import itertools
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from abci_app.core.changes import MAX_UPGRADE_NOTICE_BLOCKS, check_power, check_total
from abci_app.core.codes import Code, Rejected
from abci_app.core.verifiers import MAX_TOTAL_POWER, Verifier
from planetserve.transactions import PROPOSE, ROTATE, rotate
from tests.abci_app.test_governance import NEWCOMER, join, leave_of
from tests.abci_app.world import CHAIN_ID, RELAY, VERIFIERS, World, consensus_key, participant

A, B, C, D = VERIFIERS


def code_of(world: World, change: Any) -> int:
    return world.code_of(A, PROPOSE, {"change": change})


def parameter(name: str, value: Any) -> dict[str, Any]:
    return {"kind": "parameter", "name": name, "value": value}


@pytest.mark.parametrize(
    "change",
    [
        None,
        [],
        {},
        {"kind": "abolish"},
        {"kind": 7},
        {"kind": ["join"]},
        parameter("unheard_of", 1),
        parameter("window_epochs", 0),
        parameter("window_epochs", 1_001),
        parameter("commit_blocks", 24),
        join(power=20),
        join(VERIFIERS[1]),
        join(consensus_key=consensus_key(1)),
        join(consensus_key=bytes(32)),
        join(consensus_key=b"\1" + bytes(31)),
        join(key=b"\1" + bytes(31)),
        join(onion_key=bytes(32)),
        join(transport_key=bytes(32)),
        join(onion_key=B.onion_public),
        join(transport_key=B.transport_public),
        leave_of(RELAY),
        {"kind": "power", "verifier": bytes(RELAY.id), "power": 3},
        {"kind": "power", "verifier": bytes(A.id), "power": 15},
        {"kind": "upgrade", "version": 1, "height": 20_000},
        {"kind": "upgrade", "version": 3, "height": 20_000},
        {"kind": "upgrade", "version": 2, "height": 10_001},
        {"kind": "upgrade", "version": 2, "height": 10_002 + MAX_UPGRADE_NOTICE_BLOCKS},
    ],
)
def test_impossible_changes(change: Any) -> None:
    assert code_of(World(), change) == Code.BAD_CHANGE


@pytest.mark.parametrize(
    "change",
    [
        parameter("window_epochs", "5"),
        parameter("window_epochs", True),
        parameter("window_epochs", -1),
        parameter("", 5),
        parameter("n" * 65, 5),
        {**parameter("window_epochs", 5), "more": 1},
        {"kind": "parameter", "name": "window_epochs"},
        join(key=bytes(31)),
        join(name=""),
        join(name="größe"),
        join(power=0),
        join(power=MAX_TOTAL_POWER + 1),
        {"kind": "leave", "verifier": bytes(19)},
        {"kind": "leave", "verifier": A.id.hex()},
        {"kind": "power", "verifier": bytes(A.id), "power": 0},
        {"kind": "power", "verifier": bytes(A.id)},
        {"kind": "upgrade", "version": 0, "height": 20_000},
        {"kind": "upgrade", "version": 2, "height": "soon"},
    ],
)
def test_malformed_changes(change: Any) -> None:
    assert code_of(World(), change) == Code.INVALID_FIELD


@pytest.mark.parametrize(
    "change",
    [
        parameter("window_epochs", 1_000),
        parameter("commit_blocks", 21),
        join(power=19),
        join(power=1),
        leave_of(A),
        leave_of(D),
        {"kind": "power", "verifier": bytes(A.id), "power": 14},
        {"kind": "power", "verifier": bytes(A.id), "power": 1},
        {"kind": "upgrade", "version": 2, "height": 10_002},
        {"kind": "upgrade", "version": 2, "height": 10_001 + MAX_UPGRADE_NOTICE_BLOCKS},
    ],
)
def test_possible_changes(change: Any) -> None:
    assert code_of(World(), change) == Code.OK


def test_keys_that_others_hold_are_not_taken() -> None:
    world = World()
    world.admit(RELAY)
    assert code_of(world, join(onion_key=RELAY.onion_public)) == Code.BAD_CHANGE
    assert code_of(world, join(transport_key=RELAY.transport_public)) == Code.BAD_CHANGE
    assert code_of(world, join(RELAY)) == Code.OK
    assert world.code_of(RELAY, ROTATE, rotate(CHAIN_ID, RELAY.public_key, NEWCOMER)) == Code.OK
    assert code_of(world, join(NEWCOMER)) == Code.BAD_CHANGE


def test_a_verifier_s_former_key_does_not_join() -> None:
    world = World({"epoch_blocks": 5, "commit_blocks": 2})
    assert world.code_of(B, ROTATE, rotate(CHAIN_ID, B.public_key, participant(94))) == Code.OK
    world.advance_to(world.window.end)
    assert code_of(world, join(B)) == Code.BAD_CHANGE


def allowed(others: list[int], before: int, after: int) -> bool:
    try:
        check_power(others, before, after)
    except Rejected:
        return False
    return True


few = st.lists(st.integers(1, 40), max_size=6)


@given(few, st.integers(0, 60), st.integers(0, 60))
def test_two_thirds_after_held_a_third_before(others: list[int], before: int, after: int) -> None:
    """The bound that light clients need, tried on every set of verifiers."""
    assume(sum(others) + before > 0 and before != after)
    if not allowed(others, before, after):
        return
    pairs = [(power, power) for power in others] + [(before, after)]
    old, new = sum(others) + before, sum(others) + after
    for size in range(len(pairs) + 1):
        for chosen in itertools.combinations(pairs, size):
            if 3 * sum(now for _, now in chosen) > 2 * new:
                assert 3 * sum(then for then, _ in chosen) > old


@given(few.filter(bool), st.integers(0, 60), st.integers(0, 60))
def test_who_gains_cannot_stop_a_network_of_three_or_more(
    others: list[int], before: int, after: int
) -> None:
    if before < after and allowed(others, before, after):
        total = sum(others) + after
        small = len(others) < 3 and after * len(others) <= sum(others)
        assert 3 * after < total or small


@given(few.filter(bool))
def test_equals_may_always_join_and_leave(others: list[int]) -> None:
    equal = [others[0]] * len(others)
    assert allowed(equal, 0, equal[0])
    assert allowed(equal, equal[0], 0)


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_any_power_can_leave_in_steps(power: int, rest: int) -> None:
    steps = 0
    while power and not allowed([rest], power, 0):
        lower = (power - rest + 1) // 2
        assert allowed([rest], power, lower)
        power = lower
        steps += 1
    assert steps <= 41


def test_total_power_is_cometbft_s() -> None:
    half = MAX_TOTAL_POWER // 2
    check_total([], MAX_TOTAL_POWER)
    check_total([verifier_of(half, half)], MAX_TOTAL_POWER - half)
    for power in (half, half // 2):
        with pytest.raises(Rejected, match="all power together"):
            # Half of it was taken away, and may come back.
            check_total([verifier_of(power, half)], MAX_TOTAL_POWER - half + 1)


def verifier_of(power: int, voted_power: int) -> Verifier:
    return Verifier(bytes(32), "verifier", bytes(32), power, voted_power)


def test_somebody_holds_power() -> None:
    assert not allowed([], 5, 0)
