"""Rows against a dictionary."""

from hypothesis import given, settings
from hypothesis import strategies as st

from modelnode.core.keyed_rows import KeyedRows

# Keys that differ in their highest or lowest bits only, as those of nodes and items do.
keys = st.one_of(st.integers(0, 40), st.integers(0, 40).map(lambda high: high << 48))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "rekey"]), keys, keys), max_size=200)


@given(steps, st.integers(0, (1 << 64) - 1))
@settings(max_examples=200, deadline=None)
def test_like_a_dictionary(steps: list[tuple[str, int, int]], secret: int) -> None:
    rows = KeyedRows(secret, "I")
    expected: dict[int, int] = {}
    for number, (step, key, other) in enumerate(steps, 1):
        if step == "add" and key not in expected:
            row = rows.add(key)
            assert rows.columns[0][row] == 0
            rows.columns[0][row] = expected[key] = number
        elif step == "remove" and key in expected:
            rows.remove(rows.find(key))
            del expected[key]
        elif step == "rekey" and key in expected and other not in expected:
            rows.rekey(rows.find(key), other)
            expected[other] = expected.pop(key)
        assert rows.count == len(expected)
    for key in {key for step in steps for key in step[1:]}:
        row = rows.find(key)
        assert (rows.columns[0][row] if row else None) == expected.get(key)


def test_it_grows_and_uses_rows_again() -> None:
    rows = KeyedRows(3, "I")
    for key in range(0, 50_000 << 16, 1 << 16):
        rows.add(key)
    for key in range(0, 50_000 << 16, 2 << 16):
        rows.remove(rows.find(key))
    highest = len(rows.keys)
    for key in range(0, 50_000 << 16, 2 << 16):
        rows.add(key + 1)
    assert len(rows.keys) == highest
    for number in range(50_000):
        assert rows.find((number << 16) + 1 - number % 2)
        assert not rows.find((number << 16) + number % 2)
