"""The tree against a plain list of every told prefix, and at its bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelnode.core.hr_tree import HRTree

SECRET = 0x9E3779B97F4A7C15
OWNERS, TELLERS = range(4), range(3)

# Few letters, so that paths share beginnings and part anywhere.
paths = st.lists(st.sampled_from([b"\0\0", b"\0\1", b"\1\0"]), max_size=9).map(b"".join)
owners = st.sampled_from(list(OWNERS))
tellers = st.sampled_from(list(TELLERS))


def prefixes(path: bytes) -> set[bytes]:
    return {path[:end] for end in range(2, len(path) + 1, 2)}


class TreeMachine(RuleBasedStateMachine):
    """Beside the tree: who told what and when; what goes on from another is told in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = HRTree(SECRET)
        self.now_s = 0.0
        self.told: dict[tuple[int, int, bytes], float] = {}

    def held(self, owner: int) -> set[bytes]:
        found: set[bytes] = set()
        for holder, _, path in self.told:
            if holder == owner:
                found |= prefixes(path)
        return found

    @rule(path=paths, owner=owners, teller=tellers)
    def insert(self, path: bytes, owner: int, teller: int) -> None:
        self.now_s += 1
        before = self.held(owner)
        new = self.tree.insert(path, owner, self.now_s, teller)
        replaced = [
            other
            for holder, who, other in self.told
            if (holder, who) == (owner, teller) and path.startswith(other)
        ]
        if replaced and path not in replaced:
            del self.told[owner, teller, max(replaced, key=len)]
        if path:
            self.told[owner, teller, path] = self.now_s
        assert new == len(self.held(owner)) - len(before)

    @rule(owner=owners)
    def drop_owner(self, owner: int) -> None:
        self.tree.drop_owner(owner)
        self.told = {key: told for key, told in self.told.items() if key[0] != owner}

    @rule(teller=tellers)
    def drop_teller(self, teller: int) -> None:
        self.tree.drop_teller(teller)
        self.told = {key: told for key, told in self.told.items() if key[1] != teller}

    @rule(path=paths)
    def match(self, path: bytes) -> None:
        expected = {}
        for owner in OWNERS:
            held = self.held(owner) & prefixes(path)
            if held:
                expected[owner] = max(map(len, held)) // 2
        assert self.tree.match(path) == expected

    @precondition(lambda self: len({who for _, who, _ in self.told}) <= 1)
    @rule(owner=owners, keep=st.integers(0, 12))
    def truncate(self, owner: int, keep: int) -> None:
        """With one teller it is LRU: chunks go one by one off the end of the oldest prefix."""
        self.tree.truncate(owner, keep)
        while len(self.held(owner)) > keep:
            oldest = min((key for key in self.told if key[0] == owner), key=self.told.__getitem__)
            told_s = self.told.pop(oldest)
            shorter = (oldest[0], oldest[1], oldest[2][:-2])
            if shorter[2] and shorter not in self.told:
                self.told[shorter] = told_s

    @invariant()
    def counts(self) -> None:
        stats = self.tree.stats()
        held = {owner: self.held(owner) for owner in OWNERS}
        assert stats.items == len(self.told)
        assert stats.owned_chunks == sum(map(len, held.values()))
        assert stats.chunks == len(set().union(*held.values()))
        for owner in OWNERS:
            assert self.tree.owned_chunks(owner) == len(held[owner])
            for path in held[owner]:
                assert self.tree.match(path)[owner] == len(path) // 2
        # Compressed: no more nodes than ends and branches of what was told, once all was passed.
        assert stats.nodes <= stats.chunks


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    honest=st.lists(paths, max_size=6),
    flood=st.lists(paths, max_size=12),
    keep=st.integers(0, 30),
)
@settings(max_examples=150, deadline=None)
def test_a_flood_does_not_push_out_a_teller_below_its_share(
    honest: list[bytes], flood: list[bytes], keep: int
) -> None:
    tree = HRTree(SECRET)
    for path in honest:
        tree.insert(path, 0, 1.0, teller=1)
    told = tree.owned_chunks(0)
    for path in flood:
        tree.insert(b"\7\7" + path, 0, 2.0, teller=2)
    tree.truncate(0, keep)
    assert tree.owned_chunks(0) <= keep
    if told <= keep // 4:
        for path in honest:
            assert tree.match(path).get(0, 0) == len(path) // 2


def test_what_was_told_least_recently_goes_first_whoever_told_it() -> None:
    tree = HRTree(SECRET)
    for now_s, (path, teller) in enumerate([(b"aaaa", 1), (b"bbbb", 2), (b"cccc", 1)]):
        tree.insert(path, 0, float(now_s), teller)
    tree.truncate(0, 4)
    assert [tree.match(path).get(0, 0) for path in (b"aaaa", b"bbbb", b"cccc")] == [0, 2, 2]
    tree.truncate(0, 3)
    assert [tree.match(path).get(0, 0) for path in (b"aaaa", b"bbbb", b"cccc")] == [0, 1, 2]


def unique(chunks: int, source: random.Random) -> bytes:
    return source.randbytes(2 * chunks)


def test_memory_is_bounded_and_who_told_most_gives_way() -> None:
    source = random.Random(1)
    tree = HRTree(SECRET, max_bytes=400_000)
    kept = [unique(20, source) for _ in range(50)]
    for path in kept:
        tree.insert(path, 1, 0.0, teller=1)
    for number in range(3_000):
        tree.insert(unique(source.randrange(1, 40), source), 2, float(number), teller=2)
        assert tree.bytes <= 400_000
    assert all(tree.match(path)[1] == 20 for path in kept)
    assert tree.stats().items > 500


def test_one_path_larger_than_the_tree_is_given_up() -> None:
    tree = HRTree(SECRET, max_bytes=10_000)
    path = unique(100_000, random.Random(2))
    assert tree.insert(path, 1, 0.0) == 100_000
    assert tree.match(path) == {}
    assert tree.bytes == 0


def test_deep_paths_and_thousands_of_siblings_give_back_all_memory() -> None:
    source = random.Random(3)
    tree = HRTree(SECRET)
    deep = unique(100_000, source)
    tree.insert(deep, 0, 0.0)
    for turn in range(1, 500):
        tree.insert(deep[: 200 * turn] + unique(3, source), turn % 7, float(turn))
    assert tree.match(deep)[0] == 100_000
    # Each chunk of this one is a node: as deep as a tree can be.
    staircase = unique(400, source)
    for end in range(1, 400):
        tree.insert(staircase[: 2 * end] + b"\0\0", end % 7, 1_000.0)
    for _ in range(3_000):
        tree.insert(deep[:2] + unique(2, source), 3, 2_000.0)
    assert tree.match(staircase + b"more")[399 % 7] == 399
    for owner in range(7):
        tree.drop_owner(owner)
    stats = tree.stats()
    assert (stats.nodes, stats.holders, stats.items, stats.bytes, stats.chunks) == (0,) * 5


def test_a_chain_of_nodes_is_joined_again_when_it_is_passed() -> None:
    source = random.Random(4)
    tree = HRTree(SECRET)
    path = unique(300, source)
    tree.insert(path, 1, 0.0, teller=1)
    for chunk in range(1, 300):
        tree.insert(path[: 2 * chunk] + unique(1, source), 2, 1.0, teller=2)
    assert tree.stats().nodes > 500
    tree.drop_owner(2)
    tree.insert(path + unique(1, source), 1, 2.0, teller=1)
    assert tree.stats().nodes <= 3


def test_the_expected_rate_of_false_matches_is_that_of_the_fan_out() -> None:
    source = random.Random(5)
    tree = HRTree(SECRET)
    for _ in range(200):
        tree.insert(unique(4, source), 0, 0.0)
    for _ in range(100):
        tree.match(unique(4, source))
    stats = tree.stats()
    assert stats.expected_false_8 == pytest.approx(1 - (255 / 256) ** 200, abs=0.01)
    assert stats.expected_false_16 == pytest.approx(1 - (65535 / 65536) ** 200, abs=0.0005)


def test_what_is_no_path_is_refused() -> None:
    tree = HRTree(SECRET)
    for call in (lambda: tree.match(b"odd"), lambda: tree.insert(b"odd", 0, 0.0)):
        with pytest.raises(ValueError, match="two bytes"):
            call()
    for owner, teller in ((-1, 0), (65_535, 0), (0, 65_535)):
        with pytest.raises(ValueError, match="below"):
            tree.insert(b"ok", owner, 0.0, teller)
    assert tree.insert(b"", 0, 0.0) == 0
    assert tree.stats().items == 0
