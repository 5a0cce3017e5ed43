"""What a client sends for a prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planetserve.chat import DEFAULT_MAX_TOKENS, BadRequest, parse_body
from planetserve.client.answer import DEFAULT_SYSTEM, request_body


def test_a_question_goes_behind_the_system_prompt() -> None:
    body = json.loads(request_body("Why?", "tiny", DEFAULT_SYSTEM, max_tokens=5, seed=None))
    assert body == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": DEFAULT_SYSTEM},
            {"role": "user", "content": "Why?"},
        ],
        "max_tokens": 5,
    }


def test_turns_are_sent_as_they_are() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert json.loads(request_body(turns, "tiny", DEFAULT_SYSTEM))["messages"] == turns


@pytest.mark.parametrize(
    ("prompt", "sampling", "param"),
    [
        ("x", {"temperature": 3}, "temperature"),
        ("x", {"max_tokens": 0}, "max_tokens"),
        ([], {}, "messages"),
        ([{"role": "tool", "content": "x"}], {}, "messages[0].role"),
        ("\ud800", {}, None),
    ],
)
def test_what_no_node_would_take_is_refused_before_it_is_sent(
    prompt: Any, sampling: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(BadRequest) as caught:
        request_body(prompt, "tiny", **sampling)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, DEFAULT_MAX_TOKENS),
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 50, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 50}, 50),
        ({"max_tokens": 9, "max_completion_tokens": None}, 9),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9),
    ],
)
def test_both_names_of_the_limit_are_read_and_the_newer_one_wins(
    limits: dict[str, Any], expected: int
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **limits}
    assert parse_body(json.dumps(body).encode()).max_tokens == expected


def test_a_wrong_limit_is_refused_by_its_own_name() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    for name in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(BadRequest) as caught:
            parse_body(json.dumps(body | {name: 1 << 20}).encode())
        assert caught.value.param == name
