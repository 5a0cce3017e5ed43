"""What a reader gets from one node after another is one text, or the difference is seen."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from modelnode.core.retelling import Retelling

texts = st.text("abü", max_size=30)
cuts = st.lists(st.integers(0, 30), max_size=6)


def pieces(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({cut for cut in cuts if cut < len(text)} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


@given(texts, st.lists(st.tuples(st.integers(0, 30), cuts), min_size=1, max_size=4))
def test_nodes_that_agree_give_the_text_once(
    text: str, attempts: list[tuple[int, list[int]]]
) -> None:
    told = Retelling()
    got = ""
    for said, where in [*attempts, (len(text), [])]:
        told.begin()
        for piece in pieces(text[:said], where):
            fresh = told.hear(piece)
            assert fresh is not None
            got += fresh
        assert told.caught_up == (said >= len(got))
        assert told.begun == bool(got)
    assert got == text


@given(texts, texts, cuts, cuts)
def test_another_text_is_seen_before_anything_of_it_is_passed_on(
    first: str, second: str, cuts_of_first: list[int], cuts_of_second: list[int]
) -> None:
    told = Retelling()
    told.begin()
    for piece in pieces(first, cuts_of_first):
        assert told.hear(piece) == piece
    told.begin()
    got = first
    for piece in pieces(second, cuts_of_second):
        fresh = told.hear(piece)
        if fresh is None:
            assert not second.startswith(first)
            return
        got += fresh
    assert told.caught_up == second.startswith(first)
    assert got == (second if told.caught_up else first)
