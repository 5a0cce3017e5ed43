"""Challenges: reproducible with the seed, different in everything else, valid requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.chat import parse_fields
from planetserve.client.answer import DEFAULT_SYSTEM
from prober.challenges import MAX_TOKENS, SYSTEM, TEMPLATES, challenge

SEED, NODE = bytes(32), bytes(20)


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, (1 << 63) - 1),
    st.binary(min_size=20, max_size=20),
    st.integers(0, 1 << 31),
)
def test_challenge_is_a_short_greedy_request(
    seed: bytes, epoch: int, node: bytes, index: int
) -> None:
    body = challenge(seed, epoch, node, index, "m")
    assert challenge(seed, epoch, node, index, "m") == body
    request = parse_fields(body)
    assert (request.max_tokens, request.temperature) == (MAX_TOKENS, 0.0)
    prompt = request.messages[-1].content
    assert 10 < len(prompt) < 200
    assert "{" not in prompt


def test_challenge_begins_like_a_user_s_question() -> None:
    first, second = challenge(SEED, 1, NODE, 0, "m")["messages"]
    assert first == {"role": "system", "content": DEFAULT_SYSTEM} == first | {"content": SYSTEM}
    assert second["role"] == "user"


def prompts(seed: bytes, epoch: int, node: bytes, count: int) -> list[str]:
    return [
        challenge(seed, epoch, node, index, "m")["messages"][-1]["content"]
        for index in range(count)
    ]


def test_nothing_repeats_across_seeds_epochs_and_nodes() -> None:
    lists = [
        prompts(SEED, 1, NODE, 4),
        prompts(b"\1" * 32, 1, NODE, 4),
        prompts(SEED, 2, NODE, 4),
        prompts(SEED, 1, b"\1" * 20, 4),
    ]
    everything = [prompt for some in lists for prompt in some]
    assert len(set(everything)) == len(everything)


def test_challenges_are_spread_over_the_pools() -> None:
    many = prompts(SEED, 7, NODE, 5000)
    assert len(set(many)) > 0.9 * len(many)
    starts = {prompt[:6] for prompt in many}
    assert len(starts) > len(TEMPLATES) // 2


def test_a_seed_of_another_size_is_our_own_fault() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        challenge(b"short", 1, NODE, 0, "m")
