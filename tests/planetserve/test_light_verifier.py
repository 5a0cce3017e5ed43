"""Which headers a light client believes: recorded ones, long chains, and forgeries of each part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planetserve.errors import ForgedHeader, OldHeader
from planetserve.light.blocks import (
    COMMIT,
    NIL,
    BlockId,
    LightBlock,
    ValidatorSet,
    Vote,
    light_block,
)
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.reading import read_light_block
from planetserve.light.verifier import (
    MAX_BISECTION_STEPS,
    Rules,
    bisection,
    check_signed,
    verify,
    verify_before,
)
from tests.planetserve.light_chain import (
    CHAIN_ID,
    NOBODY,
    Signers,
    header_at,
    make_chain,
    now_ns,
    recorded,
    seed,
    sign,
    signers,
)

RULES = Rules(CHAIN_ID, period_s=10_000)
FOUR = signers(range(4))


@lru_cache(maxsize=1)
def steady() -> list[LightBlock]:
    return make_chain(6, lambda height: FOUR)


def skip(
    trusted: LightBlock, target: LightBlock, source: list[LightBlock], rules: Rules = RULES
) -> tuple[list[LightBlock], list[int]]:
    """Run a bisection over `source`; returns what was verified and which heights were asked for."""
    asked = []
    steps = bisection(trusted, target, rules, now_ns(target))
    try:
        height = next(steps)
        while True:
            asked.append(height)
            height = steps.send(source[height - 1])
    except StopIteration as done:
        return done.value, asked


def test_the_recorded_chain_is_believed_block_by_block_and_in_one_skip() -> None:
    rules = Rules("vectors-1", 1_000)
    chain = [read_light_block(item) for item in recorded()["blocks"]]
    for block in chain:
        check_signed(block, rules)
    for trusted, block in pairwise(chain):
        assert verify(trusted, block, rules, now_ns(block))
        assert verify_before(block, trusted.header)
    assert verify(chain[0], chain[-1], rules, now_ns(chain[-1]))
    assert not verify_before(chain[-1], chain[0].header)


def test_a_thousand_headers_of_the_same_validators_are_one_step() -> None:
    chain = [steady()[0], sign(header_at(1_000, FOUR, FOUR), FOUR)]
    verified, asked = skip(chain[0], chain[1], chain)
    assert (verified, asked) == ([chain[1]], [])


def test_a_thousand_headers_of_changing_validators_are_few() -> None:
    """One of seven leaves and one joins every fifty blocks."""
    chain = make_chain(1_000, lambda height: signers(range(height // 50, height // 50 + 7)))
    verified, asked = skip(chain[0], chain[-1], chain)
    assert verified[-1] is chain[-1]
    assert [block.height for block in verified] == sorted({block.height for block in verified})
    assert len(asked) < 40


def test_validators_that_all_change_at_once_are_followed_where_they_do() -> None:
    chain = make_chain(64, lambda height: FOUR if height < 40 else signers(range(10, 14)))
    verified, asked = skip(chain[0], chain[-1], chain)
    assert {39, 40} <= {block.height for block in verified}
    assert len(asked) <= 12


def test_a_trust_level_asks_for_more_of_the_earlier_validators() -> None:
    chain = make_chain(20, lambda height: FOUR if height < 10 else signers(range(2, 6)))
    assert verify(chain[0], chain[-1], RULES, now_ns(chain[-1]))
    strict = replace(RULES, level=(2, 3))
    assert not verify(chain[0], chain[-1], strict, now_ns(chain[-1]))
    assert skip(chain[0], chain[-1], chain, strict)[0][-1] is chain[-1]


@given(st.integers(0, 2**32), st.integers(2, 40))
@settings(max_examples=30)
def test_whatever_way_validators_change_the_last_header_is_reached(seeds: int, length: int) -> None:
    def powers(height: int) -> Signers:
        first = (seeds >> height % 32) & 7
        return signers(range(first, first + 3), power=1 + (seeds >> height % 7) % 5)

    chain = make_chain(length, powers)
    verified, _ = skip(chain[0], chain[-1], chain)
    assert verified[-1] is chain[-1]


Forgery = Callable[[LightBlock], LightBlock]


def with_header(**fields: Any) -> Forgery:
    """A header changed below an honest commit."""
    return lambda block: light_block(
        replace(block.header, **fields),
        block.commit,
        block.validators,
    )


def signed_by_strangers(block: LightBlock) -> LightBlock:
    strangers = signers(range(90, 94))
    return sign(header_at(block.height, strangers, strangers), strangers)


def with_votes(change: Callable[[LightBlock], tuple[Vote, ...]]) -> Forgery:
    return lambda block: light_block(
        block.header,
        replace(block.commit, votes=change(block)),
        block.validators,
    )


def with_commit(**fields: Any) -> Forgery:
    return lambda block: light_block(
        block.header,
        replace(block.commit, **fields),
        block.validators,
    )


def resigned_for(**fields: Any) -> Forgery:
    """The header changed and signed by its true validators."""
    return lambda block: sign(replace(block.header, **fields), FOUR)


ADJACENT_FORGERIES: dict[str, Forgery] = {
    "another app hash": with_header(app_hash=bytes([1]) * 32),
    "another time": with_header(time_ns=1),
    "another chain": resigned_for(chain_id="made-2"),
    "a time before the trusted one": resigned_for(time_ns=0),
    "a time in the future": resigned_for(time_ns=10**20),
    "another predecessor": resigned_for(last_block_id=BlockId(bytes(32), 1, bytes(32))),
    "other validators than announced": signed_by_strangers,
    "a commit of another height": with_commit(height=9),
    "a commit of another round": with_commit(round=9),
    "a commit for another block": with_commit(block_id=BlockId(bytes(32), 1, bytes(32))),
    "a commit for other parts": lambda block: with_commit(
        block_id=replace(block.commit.block_id, parts_total=7)
    )(block),
    "no more than 2/3 of the votes": lambda block: sign(
        block.header, FOUR, absent=[seed(0), seed(1)]
    ),
    "votes for nothing": with_votes(
        lambda block: tuple(replace(vote, flag=NIL) for vote in block.commit.votes)
    ),
    "fewer votes than validators": with_votes(lambda block: block.commit.votes[:3]),
    "one vote twice": with_votes(
        lambda block: (block.commit.votes[0], block.commit.votes[0], NOBODY, NOBODY)
    ),
    "a signature of nothing": with_votes(
        lambda block: (replace(block.commit.votes[0], signature=b"x"), *block.commit.votes[1:])
    ),
    "a vote at another time": with_votes(
        lambda block: (replace(block.commit.votes[0], time_ns=5), *block.commit.votes[1:])
    ),
    "other validators beside the header": lambda block: light_block(
        block.header, block.commit, ValidatorSet(block.validators.validators[:3])
    ),
    "more power for one": lambda block: light_block(
        block.header,
        block.commit,
        ValidatorSet(
            (
                replace(block.validators.validators[0], power=1_000),
                *block.validators.validators[1:],
            )
        ),
    ),
}


@pytest.mark.parametrize("name", ADJACENT_FORGERIES)
def test_a_forged_successor_is_refused(name: str) -> None:
    trusted, block = steady()[:2]
    assert verify(trusted, block, RULES, now_ns(block))
    with pytest.raises(ForgedHeader):
        verify(trusted, ADJACENT_FORGERIES[name](block), RULES, now_ns(block))


SAME_WHEN_SKIPPED = sorted(
    set(ADJACENT_FORGERIES) - {"another predecessor", "other validators than announced"}
)


@pytest.mark.parametrize("name", SAME_WHEN_SKIPPED)
def test_a_forged_later_header_is_never_believed(name: str) -> None:
    trusted, block = steady()[0], steady()[5]
    assert verify(trusted, block, RULES, now_ns(block))
    try:
        believed = verify(trusted, ADJACENT_FORGERIES[name](block), RULES, now_ns(block))
    except ForgedHeader:
        return
    assert not believed


def test_a_chain_of_strangers_is_followed_down_to_where_it_was_forged() -> None:
    strangers = signers(range(90, 94))
    forged = [steady()[0], *make_chain(16, lambda height: strangers)[1:]]
    with pytest.raises(ForgedHeader, match="other validators than its predecessor announced"):
        skip(forged[0], forged[-1], forged)


def test_a_block_of_another_height_in_between_is_refused() -> None:
    chain = make_chain(16, lambda height: FOUR if height < 8 else signers(range(10, 14)))
    steps = bisection(chain[0], chain[-1], RULES, now_ns(chain[-1]))
    assert next(steps) == 8
    with pytest.raises(ForgedHeader, match="in place of"):
        steps.send(chain[8])


def test_the_steps_of_a_bisection_are_bounded() -> None:
    chain = make_chain(
        MAX_BISECTION_STEPS + 40, lambda height: signers(range(3 * height, 3 * height + 3))
    )
    with pytest.raises(ForgedHeader, match="no trust reaches"):
        skip(chain[0], chain[-1], chain)


def test_trust_ends_with_its_period() -> None:
    trusted, block = steady()[0], steady()[1]
    end_ns = trusted.header.time_ns + RULES.period_s * NANOSECONDS
    assert verify(trusted, block, RULES, end_ns - 1)
    with pytest.raises(OldHeader, match="trusted_height"):
        verify(trusted, block, RULES, end_ns)


def test_a_clock_may_drift_a_little() -> None:
    trusted, block = steady()[0], steady()[1]
    assert verify(trusted, block, RULES, block.header.time_ns - 9 * NANOSECONDS)
    with pytest.raises(ForgedHeader, match="clock"):
        verify(trusted, block, RULES, block.header.time_ns - 10 * NANOSECONDS)


def test_a_header_that_is_not_later_is_refused() -> None:
    with pytest.raises(ForgedHeader, match="not later"):
        verify(steady()[1], steady()[1], RULES, now_ns(steady()[1]))


def test_voting_twice_does_not_count_twice() -> None:
    """One trusted validator of four, in the place of two strangers."""
    header = header_at(6, signers([0, 90, 91]), FOUR)
    block = sign(header, signers([0, 90, 91]))
    mine = next(
        vote
        for vote, validator in zip(block.commit.votes, block.validators.validators, strict=True)
        if validator.address in {item.address for item in steady()[0].validators.validators}
    )
    assert mine.flag == COMMIT
    votes = tuple(mine for _ in block.commit.votes)
    twice = light_block(header, replace(block.commit, votes=votes), block.validators)
    with pytest.raises(ForgedHeader):
        verify(steady()[0], twice, RULES, now_ns(block))
