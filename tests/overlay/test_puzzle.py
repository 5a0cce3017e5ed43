from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.puzzle import MAX_DIFFICULTY, PuzzleGate, is_solved, solve_puzzle

SEED, FRESH, SECRET, EPHEMERAL = b"s" * 16, b"f" * 16, b"k" * 16, b"e" * 32


def nonce_for(seed: bytes, ephemeral: bytes, difficulty: int) -> bytes:
    found = solve_puzzle(seed, ephemeral, difficulty, 0, 1 << (difficulty + 8))
    assert found is not None
    return found.to_bytes(8, "big")


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), st.integers(0, 8))
def test_a_solution_counts_for_its_difficulty(seed: bytes, ephemeral: bytes, bits: int) -> None:
    assert is_solved(seed, ephemeral, nonce_for(seed, ephemeral, bits), bits)


def test_a_solution_is_bound_to_seed_and_ephemeral_key() -> None:
    nonce = nonce_for(SEED, EPHEMERAL, 14)
    assert is_solved(SEED, EPHEMERAL, nonce, 14)
    assert not is_solved(FRESH, EPHEMERAL, nonce, 14)
    assert not is_solved(SEED, b"x" * 32, nonce, 14)
    others = [bit for bit in range(64) if _flipped_solves(nonce, bit)]
    assert len(others) <= 1


def _flipped_solves(nonce: bytes, bit: int) -> bool:
    flipped = (int.from_bytes(nonce, "big") ^ (1 << bit)).to_bytes(8, "big")
    return is_solved(SEED, EPHEMERAL, flipped, 14)


def test_solutions_are_as_rare_as_the_difficulty_says() -> None:
    solved = sum(is_solved(SEED, EPHEMERAL, n.to_bytes(8, "big"), 4) for n in range(8000))
    assert 400 < solved < 600


def test_a_search_ends_and_goes_on_where_it_ended() -> None:
    first = solve_puzzle(SEED, EPHEMERAL, 8, 0, 1 << 16)
    assert first is not None
    assert solve_puzzle(SEED, EPHEMERAL, 8, 0, first) is None
    assert solve_puzzle(SEED, EPHEMERAL, 8, first, 1) == first


def test_no_puzzle_is_set_when_idle() -> None:
    gate = PuzzleGate(100, SEED, SECRET)
    assert gate.admit(EPHEMERAL, bytes(8))


def run(gate: PuzzleGate, seconds: int, per_s: int, start_s: int) -> None:
    """Admit whatever the difficulty is, so that the controller alone is looked at."""
    for second in range(start_s, start_s + seconds):
        difficulty, gate.difficulty = gate.difficulty, 0
        for _ in range(per_s):
            assert gate.admit(EPHEMERAL, bytes(8))
        gate.difficulty = difficulty
        gate.tick(second, FRESH)


@pytest.mark.parametrize(
    ("per_s", "expected"), [(0, 0), (24, 0), (50, 10), (75, 10), (76, 20), (200, 20)]
)
def test_difficulty_follows_the_rate(per_s: int, expected: int) -> None:
    gate = PuzzleGate(100, SEED, SECRET, difficulty=10)
    gate.tick(0, FRESH)
    run(gate, 10, per_s, 1)
    assert gate.difficulty == expected


def test_difficulty_has_bounds() -> None:
    gate = PuzzleGate(10, SEED, SECRET)
    gate.tick(0, FRESH)
    run(gate, 40, 50, 1)
    assert gate.difficulty == MAX_DIFFICULTY
    run(gate, 40, 0, 41)
    assert gate.difficulty == 0


@pytest.mark.parametrize(
    ("fill", "expected"), [(0.0, 0), (0.5, 0), (0.75, 8), (1.0, 16), (1.5, 16)]
)
def test_difficulty_follows_the_table(fill: float, expected: int) -> None:
    gate = PuzzleGate(100, SEED, SECRET)
    for second in range(3):
        gate.tick(second, FRESH, fill)
    assert gate.difficulty == expected
    for second in range(3, 40):
        gate.tick(second, FRESH, 0.0)
    assert gate.difficulty == 0


def test_ticks_within_a_second_change_nothing() -> None:
    gate = PuzzleGate(10, SEED, SECRET, difficulty=5)
    for tenth in range(10):
        gate.tick(tenth / 10, FRESH)
    assert gate.difficulty == 5


def test_a_seed_counts_for_two_lives() -> None:
    gate = PuzzleGate(1, SEED, SECRET, difficulty=12)
    gate.tick(0, FRESH)
    first, second, third = (bytes((number,)) * 32 for number in range(3))
    gate.tick(59, b"1" * 16)
    assert gate.seed == SEED
    gate.tick(60, b"2" * 16)
    assert gate.seed == b"2" * 16
    gate.difficulty = 12
    assert gate.admit(first, nonce_for(SEED, first, 12))
    assert gate.admit(second, nonce_for(gate.seed, second, 12))
    late = nonce_for(SEED, third, 12)
    gate.tick(120, b"3" * 16)
    gate.difficulty = 12
    assert not gate.admit(third, late)
    assert gate.admit(third, nonce_for(b"2" * 16, third, 12))


def test_a_solution_counts_once_for_each_seed() -> None:
    gate = PuzzleGate(100, SEED, SECRET, difficulty=8)
    nonce = nonce_for(SEED, EPHEMERAL, 8)
    other = solve_puzzle(SEED, EPHEMERAL, 8, int.from_bytes(nonce, "big") + 1, 1 << 20)
    assert other is not None
    assert not gate.admit(EPHEMERAL, bytes(8)), "this nonce is no solution"
    assert gate.admit(EPHEMERAL, nonce)
    assert not gate.admit(EPHEMERAL, nonce)
    assert not gate.admit(EPHEMERAL, other.to_bytes(8, "big"))
    gate.tick(0, FRESH)
    gate.tick(60, FRESH)
    gate.difficulty = 8
    assert not gate.admit(EPHEMERAL, nonce)
