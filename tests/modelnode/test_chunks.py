"""How prompts become chains of fingerprints."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelnode.core.chunks import (
    Chain,
    Scheme,
    common_chunks,
    parse_scheme,
    path_of,
    render,
    render_tokens,
)
from planetserve.chat import ROLES, Message

TEXT_4 = Scheme("text", 4)
messages = st.lists(st.builds(Message, st.sampled_from(ROLES), st.text(max_size=20)), max_size=4)


def test_a_path_as_the_page_states_it() -> None:
    parent = blake2b(b"planetserve/chunks/v1\0tokens/2", digest_size=8).digest()
    expected = b""
    for chunk in (b"\1\0\0\0\2\0\0\0", b"\3\0\0\0\4\1\0\0"):
        parent = blake2b(parent + chunk, digest_size=8).digest()
        expected += parent[:2]
    assert path_of(render_tokens([1, 2, 3, 260, 5]), Scheme("tokens", 2)) == expected
    assert render([Message("user", "hi")]) == b"user\xffhi\xfe"


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_it_does_not_matter_in_which_parts_a_text_comes(parts: list[bytes]) -> None:
    chain = Chain(TEXT_4)
    for part in parts:
        copy = chain.copy()
        chain.extend(part)
        assert chain.path.startswith(copy.path)
    whole = b"".join(parts)
    assert chain.path == path_of(whole, TEXT_4)
    assert len(chain.path) == 2 * (len(whole) // 4)


@given(messages, messages)
@settings(max_examples=50)
def test_different_conversations_are_rendered_differently(
    one: list[Message], other: list[Message]
) -> None:
    assert (render(one) == render(other)) == (one == other)
    assert render(one + other).startswith(render(one))


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_fingerprints_agree_while_the_text_does(start: bytes, one: bytes, other: bytes) -> None:
    first, second = path_of(start + one, TEXT_4), path_of(start + other, TEXT_4)
    assert common_chunks(first, second) >= len(start) // 4


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=20))
def test_common_chunks(start: bytes, one: bytes, other: bytes) -> None:
    first, second = start * 2 + one * 2, start * 2 + other * 2
    expected = 0
    while (
        2 * expected + 2 <= min(len(first), len(second))
        and first[: 2 * expected + 2] == second[: 2 * expected + 2]
    ):
        expected += 1
    assert common_chunks(first, second) == expected


def test_half_a_surrogate_pair_is_text_like_any_other() -> None:
    assert render([Message("user", "\ud800")]) == b"user\xff\xed\xa0\x80\xfe"


def test_names_of_schemes() -> None:
    for name in ("tokens/16", "text/64", "text/4096"):
        assert str(parse_scheme(name)) == name
    assert parse_scheme("tokens/16").chunk_bytes == 64
    for name in (
        "",
        "text",
        "text/0",
        "text/4097",
        "words/3",
        "text/-1",
        "text/64 ",
        "text/\u0664",
    ):
        with pytest.raises(ValueError, match="scheme"):
            parse_scheme(name)


@pytest.mark.parametrize("ids", [[-1], [1 << 32]])
def test_ids_that_are_none_are_refused(ids: list[int]) -> None:
    with pytest.raises(OverflowError):
        render_tokens(ids)
