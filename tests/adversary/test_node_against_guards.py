"""A model node that would have its clients drop the guards that it does not like.

A guard is dropped when it fails more than the others (`overlay.core.guards`). The node sends
nothing on one stream of each answer, ends it, or spoils it, while the answer is whole over the
other three. It sees the cloves and the last relays, and chooses among them as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import pytest

from overlay.core import frames
from overlay.core.draw import shuffled
from overlay.core.guards import Tally
from overlay.core.reasons import Reason, Report
from overlay.core.wire import ID_BYTES, STREAM_END, backward_id, encode_frame
from tests.overlay.asking_world import ANSWER, END, WHOLE, Client, Reply
from tests.overlay.world import TARGET, Carried

MORE = [(frames.NOTHING, b"")]

Choose: TypeAlias = Callable[[Reply], int]


def first_clove(reply: Reply) -> int:
    return 0


def lowest_last_relay(reply: Reply) -> int:
    return min(reply.streams, key=lambda clove: reply.streams[clove].sender)


CHOICES: dict[str, Choose] = {"a clove": first_clove, "a last relay": lowest_last_relay}


class HostileNode(Client):
    """Sends nothing on the stream that it chooses, then does to it what `harm` says."""

    choose: Choose = staticmethod(first_clove)
    harm = "silence"

    def say(self, reply: Reply, parts: Iterable[tuple[int, bytes]]) -> None:
        chosen = self.choose(reply) if reply.streams else None
        held = None if chosen is None else reply.streams.pop(chosen, None)
        super().say(reply, parts)
        if chosen is None or held is None:
            return
        reply.streams[chosen] = held
        if self.harm == "end":
            del reply.streams[chosen]
            body = Report(Reason.TARGET_REFUSED).close_body()
            end = encode_frame(backward_id(held.frame[:ID_BYTES]), STREAM_END, body)
            self.world.deliver(Carried(TARGET, held.sender, end, dialled=True))
        elif self.harm == "spoil":
            self.world.answer(held, b"no clove")
        self.settle()

    def converse(self, frames_sent: int) -> None:
        question = self.ask()
        reply = self.replies[question]
        self.say(reply, ANSWER)
        for _ in range(frames_sent):
            self.say(reply, MORE)
        self.run(0.2)
        self.say(reply, END)
        self.run(0.2)
        self.leave(question)


def hostile(choice: str, harm: str) -> HostileNode:
    client = HostileNode(relays=40)
    client.choose, client.harm = CHOICES[choice], harm
    client.node_answers = False  # it waits for the fourth clove
    return client


@pytest.mark.parametrize(
    ("choice", "harm", "questions"),
    [
        ("a clove", "end", 200),
        ("a clove", "silence", 50),
        ("a clove", "spoil", 50),
        ("a last relay", "end", 50),
    ],
)
def test_a_node_drops_no_guard(choice: str, harm: str, questions: int) -> None:
    client = hostile(choice, harm)
    client.converse(0)
    guards = {guard.node for guard in client.memory.guards.guards}
    for _ in range(questions):
        client.converse(0)
    assert len(client.whole) == questions + 1
    assert set(client.answers.values()) == {WHOLE}
    assert {guard.node for guard in client.memory.guards.guards} == guards
    for guard in client.memory.guards.guards:
        assert guard.builds.successes == guard.builds.attempts > 20
        assert guard.uses.successes == guard.uses.attempts > 20


def test_a_stream_that_falls_far_behind_costs_its_guard_nothing_either() -> None:
    client = hostile("a clove", "silence")
    for _ in range(3):
        client.converse(frames.WINDOW_FRAMES + 2)
        client.run(1.0)
    assert client.whole == {0, 1, 2}
    for guard in client.memory.guards.guards:
        assert guard.builds.successes == guard.builds.attempts
        assert guard.uses.successes == guard.uses.attempts


def test_what_a_node_leaves_out_meets_all_guards_alike() -> None:
    """It can keep a path from counting: of 100, a quarter for each guard, give or take 4.3."""
    client = hostile("a clove", "silence")
    for _ in range(100):
        client.converse(0)
    attempts = [guard.builds.attempts for guard in client.memory.guards.guards]
    assert sum(attempts) == 300
    assert all(abs(number - 75) < 3 * 4.3 for number in attempts)


def test_with_one_order_for_all_questions_one_guard_would_bear_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overlay.core.asking.shuffled", lambda count, draw: tuple(range(count)))
    client = hostile("a clove", "silence")
    for _ in range(30):
        client.converse(0)
    tallies = [guard.builds for guard in client.memory.guards.guards]
    assert sorted(tallies, key=lambda tally: tally.attempts)[0] == Tally(0, 0)


def test_each_order_is_as_likely() -> None:
    def each(count: int) -> set[tuple[int, ...]]:
        """All that comes of all draws, which is each order once if it is fair."""
        orders: list[tuple[int, ...]] = []
        for number in range(24):
            left = number

            def draw(below: int) -> int:
                nonlocal left
                left, drawn = divmod(left, below)
                return drawn

            orders.append(shuffled(count, draw))
        assert len(set(orders)) == len(orders)
        return set(orders)

    assert len(each(4)) == 24
