"""Credits are whole millionths, rise with similarity, and the real embedding tells texts apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prober.embedding import Embedder
from prober.scoring import (
    HIGH_SIMILARITY_PPM,
    LOW_SIMILARITY_PPM,
    SCALE_PPM,
    length_factor_ppm,
    node_credit_ppm,
    reply_credit_ppm,
    similarity_credit_ppm,
    to_ppm,
)

similarities = st.floats(-1, 1).map(to_ppm)


@given(similarities, similarities)
def test_similarity_credit_is_monotone_and_bounded(first: int, second: int) -> None:
    low, high = sorted((first, second))
    assert 0 <= similarity_credit_ppm(low) <= similarity_credit_ppm(high) <= SCALE_PPM


def test_similarity_credit_at_its_corners() -> None:
    assert similarity_credit_ppm(LOW_SIMILARITY_PPM) == 0
    assert similarity_credit_ppm(HIGH_SIMILARITY_PPM) == SCALE_PPM
    middle = (LOW_SIMILARITY_PPM + HIGH_SIMILARITY_PPM) // 2
    assert similarity_credit_ppm(middle) == 500_000


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_length_factor_is_symmetric_and_bounded(first: int, second: int) -> None:
    factor = length_factor_ppm(first, second)
    assert factor == length_factor_ppm(second, first)
    assert 0 <= factor <= SCALE_PPM


@pytest.mark.parametrize(
    ("reply", "reference", "expected"),
    [(100, 100, 1_000_000), (50, 100, 1_000_000), (25, 100, 500_000), (0, 9, 0), (0, 0, 1_000_000)],
)
def test_length_factor_values(reply: int, reference: int, expected: int) -> None:
    assert length_factor_ppm(reply, reference) == expected


def test_credit_of_a_reply_needs_both() -> None:
    assert reply_credit_ppm(1_000_000, "a whole answer", "a whole answer") == SCALE_PPM
    assert reply_credit_ppm(1_000_000, "a", "a whole answer") < 200_000
    assert reply_credit_ppm(100_000, "a whole answer", "a whole answer") == 0


@given(st.lists(st.integers(0, SCALE_PPM), min_size=1))
def test_node_credit_lies_between_its_replies(credits: list[int]) -> None:
    assert min(credits) <= node_credit_ppm(credits) <= max(credits)


def test_no_replies_are_no_credit() -> None:
    with pytest.raises(ValueError, match="at least one"):
        node_credit_ppm([])


def test_real_embedding_tells_texts_apart() -> None:
    bees = "Honey bees dance to tell each other where flowers grow."
    pairs = [
        (bees, bees),
        (bees, "By dancing, honey bees show each other where the flowers are."),
        (bees, "Book a cheap beach holiday with us this week."),
        (bees, "  "),
    ]
    same, alike, foreign, blank = Embedder().similarities(pairs)
    assert same == pytest.approx(1.0, abs=1e-3)
    assert 0.8 < alike < 1.0
    assert foreign < 0.3
    assert blank == 0.0
    assert Embedder().similarities([]) == []
