"""An epoch of a prober, block by block."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from prober import epoch_round
from prober.epoch_round import Clock, Commit, EpochRound, Probe, Reveal, Score, Step

NODES = (b"a" * 20, b"b" * 20)
CLOCK = Clock(height=0, epoch=0, start=1, commit_end=16, reveal_end=25, end=26)


def score(node: bytes) -> Score:
    return Score(node, 900_000, 1, bytes(32), bytes(32))


def play(fractions: dict[bytes, float], probe_blocks: int) -> tuple[EpochRound, list[str]]:
    """Every step answers within `probe_blocks` blocks; commits and reveals within one."""
    current = epoch_round.begin(CLOCK, NODES, fractions)
    log: list[str] = []
    ending: list[tuple[int, Step]] = []
    for height in range(25):
        clock = replace(CLOCK, height=height)
        for due, step in [item for item in ending if item[0] <= height]:
            ending.remove((due, step))
            if isinstance(step, Probe):
                current = current.scored(score(step.node))
            elif isinstance(step, Commit):
                current = current.at(step.score.node, epoch_round.COMMITTED)
            else:
                current = current.at(step.score.node, epoch_round.DONE)
        current, steps = epoch_round.next_steps(current, clock)
        for step in steps:
            log.append(f"{height + 1} {type(step).__name__}")
            if not isinstance(step, Probe):
                allowed = clock.may_commit if isinstance(step, Commit) else clock.may_reveal
                assert allowed
            ending.append((height + (probe_blocks if isinstance(step, Probe) else 1), step))
    return current, log


def test_a_whole_epoch() -> None:
    current, log = play({NODES[0]: 0.0, NODES[1]: 0.5}, probe_blocks=2)
    assert current.finished
    assert log == ["1 Probe", "3 Commit", "3 Probe", "5 Commit", "16 Reveal", "16 Reveal"]


def test_a_score_that_comes_too_late_is_not_committed() -> None:
    current, log = play({NODES[0]: 0.0, NODES[1]: 0.0}, probe_blocks=17)
    assert current.finished
    assert log == ["1 Probe", "1 Probe"]


def test_who_had_no_time_for_all_goes_by_the_order_that_all_have() -> None:
    in_time, _ = play({NODES[0]: 0.0, NODES[1]: 0.5}, probe_blocks=2)
    too_late, _ = play({NODES[0]: 0.0, NODES[1]: 0.0}, probe_blocks=17)
    assert not in_time.short_of_time
    assert too_late.short_of_time
    unasked = epoch_round.begin(CLOCK, NODES, dict.fromkeys(NODES, 0.0))
    assert unasked.at(NODES[0], epoch_round.PROBING).short_of_time
    assert not unasked.at(NODES[0], epoch_round.ABSTAINED).short_of_time
    orders = [epoch_round.by_seed(bytes([seed]) * 32, NODES) for seed in range(16)]
    assert orders == [epoch_round.by_seed(bytes([s]) * 32, NODES[::-1]) for s in range(16)]
    assert {tuple(order) for order in orders} == {NODES, NODES[::-1]}


def test_a_prober_that_joins_late_uses_what_is_left() -> None:
    late = replace(CLOCK, height=12)
    current = epoch_round.begin(late, NODES, dict.fromkeys(NODES, 0.99))
    assert set(current.begins.values()) == {13}
    closed = replace(CLOCK, height=15)
    current, steps = epoch_round.next_steps(
        epoch_round.begin(closed, NODES, {}.fromkeys(NODES, 0)), closed
    )
    assert (steps, current.finished) == ([], True)


@given(
    st.dictionaries(st.sampled_from(NODES), st.floats(0, 0.999), min_size=2),
    st.integers(1, 30),
)
def test_every_step_is_taken_once_and_in_its_window(
    fractions: dict[bytes, float], probe_blocks: int
) -> None:
    current, log = play(fractions, probe_blocks)
    kinds = [line.split()[1] for line in log]
    assert kinds.count("Probe") == 2
    assert kinds.count("Reveal") == kinds.count("Commit") <= 2
    assert current.finished or Probe.__name__ in kinds


def test_a_round_begins_only_with_half_of_the_window_left() -> None:
    beginnings = [height for height in range(26) if replace(CLOCK, height=height).may_begin]
    assert beginnings == list(range(9))


def test_reveals_open_what_was_committed() -> None:
    current = epoch_round.begin(CLOCK, NODES[:1], {NODES[0]: 0.0}).scored(score(NODES[0]))
    current, (commit,) = epoch_round.next_steps(current, replace(CLOCK, height=3))
    current = current.at(NODES[0], epoch_round.COMMITTED)
    current, (reveal,) = epoch_round.next_steps(current, replace(CLOCK, height=20))
    assert isinstance(commit, Commit)
    assert isinstance(reveal, Reveal)
    assert commit.score == reveal.score


def test_a_reveal_that_failed_is_sent_again_while_it_can_be() -> None:
    current = epoch_round.resume(CLOCK, [score(NODES[0])])
    for height in (15, 20, 23):
        current, steps = epoch_round.next_steps(current, replace(CLOCK, height=height))
        assert [type(step) for step in steps] == [Reveal]
        assert epoch_round.next_steps(current, replace(CLOCK, height=height))[1] == []
        current = current.at(NODES[0], epoch_round.COMMITTED)
    current, steps = epoch_round.next_steps(current, replace(CLOCK, height=24))
    assert (steps, current.finished) == ([], True)


def test_a_round_that_was_resumed_opens_its_commitments_and_probes_nothing() -> None:
    scores = [score(node) for node in NODES]
    current = epoch_round.resume(CLOCK, scores)
    current, steps = epoch_round.next_steps(current, replace(CLOCK, height=5))
    assert (steps, current.finished) == ([], False)
    current, steps = epoch_round.next_steps(current, replace(CLOCK, height=15))
    assert steps == [Reveal(item) for item in scores]


def test_a_round_without_nodes_is_finished() -> None:
    assert epoch_round.begin(CLOCK, (), {}).finished
    assert epoch_round.resume(CLOCK, ()).finished


def test_what_a_refusal_makes_of_a_step() -> None:
    reveal = Reveal(score(NODES[0]))
    assert epoch_round.after_refusal(reveal, proven=False) == epoch_round.COMMITTED
    assert epoch_round.after_refusal(reveal, proven=True) == epoch_round.ABSTAINED
    for step in (Probe(NODES[0]), Commit(score(NODES[0]))):
        assert epoch_round.after_refusal(step, proven=False) == epoch_round.ABSTAINED
