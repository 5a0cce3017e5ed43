"""Questions, relays that die and return, frames that are lost or damaged, in any order.

Whatever happens, what was read is a beginning of the answer, each question ends with the whole
answer or one error, and in the end neither the client nor a relay holds a path that the other does
not.
"""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.core import exchange, frames
from overlay.core.path_set import Building, Empty, Open
from overlay.core.wire import FRAME_BYTES
from tests.overlay.asking_world import ANSWER, WHOLE, Client
from tests.overlay.world import TARGET, Carried, node_id

RELAYS = 24
SETTLED_S = 40.0


class AskingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.client = Client(relays=RELAYS)
        self.random = Random(1)
        self.left: set[int] = set()
        self.finished: set[int] = set()
        self.losing = 0.0
        self.client.damage = self.damage

    def damage(self, carried: Carried) -> Carried:
        if carried.receiver == TARGET or self.random.random() >= self.losing:
            return carried
        at = self.random.randrange(FRAME_BYTES)
        frame = bytearray(carried.frame)
        frame[at] ^= 1
        return Carried(carried.sender, carried.receiver, bytes(frame), carried.dialled)

    @rule(session=st.sampled_from([None, None, 1, 2]))
    def ask(self, session: int | None) -> None:
        if len(self.client.answers) < 6:
            self.client.ask(session)

    @precondition(lambda self: self.client.replies)
    @rule(data=st.data())
    def the_answer_ends(self, data: st.DataObject) -> None:
        waiting = sorted(set(self.client.replies) - self.finished)
        if waiting:
            number = data.draw(st.sampled_from(waiting))
            self.finished.add(number)
            self.client.finish(number)

    @precondition(lambda self: self.finished)
    @rule(data=st.data(), kind=st.integers(0, 6), word=st.sampled_from([b"", b"more"]))
    def the_node_goes_on_after_the_end(self, data: st.DataObject, kind: int, word: bytes) -> None:
        number = data.draw(st.sampled_from(sorted(self.finished)))
        self.client.say(self.client.replies[number], [(kind, word)])

    @precondition(lambda self: self.client.replies)
    @rule(data=st.data(), kind=st.integers(0, 6))
    def the_answer_ends_in_bad_padding(self, data: st.DataObject, kind: int) -> None:
        waiting = sorted(set(self.client.replies) - self.finished)
        if waiting:
            number = data.draw(st.sampled_from(waiting))
            self.finished.add(number)
            reply = self.client.replies[number]
            self.client.say(
                reply, [*([] if reply.sent else ANSWER), (frames.END, b"."), (kind, b"")]
            )

    @precondition(lambda self: self.client.answers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiting = sorted(set(self.client.answers) - self.left)
        if waiting:
            number = data.draw(st.sampled_from(waiting))
            self.left.add(number)
            self.client.leave(number)

    @rule(session=st.sampled_from([1, 2]))
    def end_session(self, session: int) -> None:
        self.client.do(self.client.core.end_session(session, self.client.at))

    @rule(number=st.integers(1, RELAYS))
    def kill(self, number: int) -> None:
        self.client.kill(node_id(number))

    @rule(number=st.integers(1, RELAYS))
    def revive(self, number: int) -> None:
        if node_id(number) in self.client.world.gone:
            self.client.revive(node_id(number))

    @rule(losing=st.sampled_from([0.0, 0.0, 0.01, 0.2]))
    def links_get_worse_or_better(self, losing: float) -> None:
        self.losing = losing

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.client.run(seconds, step_s=max(0.1, seconds / 10))

    @rule(pause_s=st.sampled_from([30.0, 700.0]))
    def the_machine_sleeps(self, pause_s: float) -> None:
        self.client.world.now_s += pause_s
        self.client.run(0.2)

    @invariant()
    def what_was_read_is_a_beginning(self) -> None:
        for answer in self.client.answers.values():
            assert WHOLE.startswith(answer)

    @invariant()
    def no_question_ends_twice(self) -> None:
        assert not self.client.whole & set(self.client.errors)
        for number in self.client.whole:
            assert self.client.answers[number] == WHOLE

    @invariant()
    def sets_and_driver_hold_the_same_paths(self) -> None:
        held = set()
        for number, member in self.client.paths.pool.members.items():
            for slot in (*member.paths.slots, *member.paths.late):
                if isinstance(slot, Building | Open):
                    held.add((number, slot.path))
            assert member.running == sum(
                question.set == number and not question.given_back
                for question in self.client.core._questions.values()
            )
        assert held == set(self.client.paths._paths)
        assert held == set(self.client.paths._by_link.values())

    @invariant()
    def streams_are_of_questions_under_way(self) -> None:
        questions = self.client.core._questions
        for running in self.client.paths._paths.values():
            for stream in running.streams.values():
                assert questions[stream.question].exchange.state != exchange.ENDED

    def teardown(self) -> None:
        self.losing = 0.0
        for node in sorted(self.client.world.gone):
            self.client.revive(node)
        self.client.run(2.0)
        for number in sorted(set(self.client.replies) - self.finished):
            self.client.finish(number)
        self.client.run(SETTLED_S, step_s=0.5)
        over = self.client.whole | set(self.client.errors) | self.left
        assert over == set(self.client.answers)
        assert self.client.core.under_way == 0
        again = self.client.ask()
        self.client.run(5.0)
        self.client.finish(again)
        assert self.client.answers[again] == WHOLE
        self.client.do(self.client.core.shut(self.client.at))
        assert not any(isinstance(s, Open) for s in self.slots())

    def slots(self) -> list[Empty | Building | Open]:
        members = self.client.paths.pool.members.values()
        return [slot for member in members for slot in member.paths.slots]


TestAskingMachine = AskingMachine.TestCase
TestAskingMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
