"""A client's questions over its paths, among real relays and a model node without sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overlay.core import frames
from overlay.core.exchange import ExchangeLimits
from overlay.core.guards import Tally
from overlay.core.relay import RelayLimits
from overlay.core.wire import CELL, decode_frame, encode_frame
from planetserve.errors import AnswerCutShort, NodeUnreachable, PathsUnavailable
from tests.overlay.asking_world import WHOLE, Client
from tests.overlay.world import TARGET, Carried, node_id


def test_a_question_is_answered_over_four_disjoint_paths() -> None:
    client = Client()
    question = client.ask()
    client.finish(question)
    assert client.whole == {question}
    assert client.answers[question] == WHOLE
    paths = client.core.hops(question)
    assert [len(hops.ids) for hops in paths] == [3, 3, 3, 3]
    assert len({node for hops in paths for node in hops.ids}) == 12


def test_what_no_question_uses_is_closed() -> None:
    client = Client(keep_ahead=False)
    question = client.ask()
    assert sum(client.world.open_paths()) == 12
    client.finish(question)
    assert sum(client.world.open_paths()) == 0
    assert client.core.under_way == 0


def test_the_next_questions_paths_are_ready_and_share_the_first_hops_alone() -> None:
    client = Client()
    client.ask()
    ahead = client.paths.pool.ahead
    assert ahead is not None
    assert client.paths.pool.members[ahead].paths.full
    first, second = (client.core.hops(client.ask()) for _ in range(2))
    assert {hops.ids[0] for hops in first} == {hops.ids[0] for hops in second}
    assert [hops.ids[1:] for hops in first] != [hops.ids[1:] for hops in second]


def test_questions_of_a_conversation_share_their_paths() -> None:
    client = Client()
    first = client.ask(session=5)
    client.finish(first)
    second, other = client.ask(session=5), client.ask(session=6)
    assert client.core.hops(first) == client.core.hops(second)
    assert client.core.hops(other) != client.core.hops(second)
    client.do(client.core.end_session(5, client.at))
    client.finish(second)
    client.finish(other)
    assert client.whole == {first, second, other}
    assert [m.session for m in client.paths.pool.members.values() if m.taken_s] == [6]


def test_padding_is_taken_in_after_the_reader_left() -> None:
    client = Client()
    question = client.ask()
    client.say(client.replies[question], [(frames.END, b".")])
    assert client.whole == {question}
    client.leave(question)
    assert len(client.replies[question].streams) == 4
    client.say(client.replies[question], [(frames.PADDING, b""), (frames.LAST, b"")])
    assert client.core.under_way == 0
    assert client.replies[question].streams == {}


def test_a_question_that_is_left_is_ended_at_the_node() -> None:
    client = Client()
    question = client.ask()
    client.leave(question)
    assert client.replies[question].streams == {}
    assert client.core.under_way == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_answer_survives_every_relay_once(place: int) -> None:
    client = Client(relays=40)
    question = client.ask()
    for slot in range(4):
        client.kill(client.core.hops(question)[slot].ids[place])
        client.run(5.0)
        assert len(client.replies[question].streams) == 4
        client.say(client.replies[question], [(frames.NOTHING, b"")])
    client.finish(question)
    assert (client.whole, client.answers[question]) == ({question}, WHOLE)


def test_two_relays_at_once_are_too_many_for_a_while_only() -> None:
    client = Client(relays=40)
    question = client.ask()
    for slot in range(3):
        client.kill(client.core.hops(question)[slot].ids[1])
    client.run(2.0)
    client.finish(question)
    assert client.whole == {question}


def test_relays_that_all_die_cut_the_answer_short() -> None:
    client = Client()
    question = client.ask()
    for node in list(client.world.members):
        client.kill(node)
    client.run(12.0)
    assert isinstance(client.errors[question], AnswerCutShort)
    another = client.ask()
    client.run(12.0)
    error = client.errors[another]
    assert isinstance(error, PathsUnavailable)
    assert "relays do not answer" in str(error)


def test_a_node_that_is_silent_is_said_and_the_paths_are_left() -> None:
    client = Client(relays=40)
    client.node_answers = False
    question = client.ask(session=1)
    before = client.core.hops(question)
    client.run(ExchangeLimits().accept_timeout_s + 1)
    error = client.errors[question]
    assert isinstance(error, NodeUnreachable)
    assert "model-1" in str(error)
    client.node_answers = True
    again = client.ask(session=1)
    assert not any(hops in before for hops in client.core.hops(again))
    client.finish(again)
    assert client.whole == {again}


def test_a_last_relay_that_changes_an_answer_loses_its_path() -> None:
    client = Client(relays=40)
    question = client.ask()
    polluter = client.core.hops(question)[1].ids

    def damage(carried: Carried) -> Carried:
        if (carried.sender, carried.receiver) != (TARGET, polluter[2]):
            return carried
        frame = decode_frame(carried.frame)
        flipped = bytes((frame.body[100] ^ 1,))
        body = frame.body[:100] + flipped + frame.body[101:]
        return Carried(TARGET, polluter[2], encode_frame(*frame[:2], body), dialled=True)

    client.damage = damage
    client.say(client.replies[question], [(frames.DATA, b" And more")])
    client.run(1.0)
    assert client.core.hops(question)[1].ids != polluter
    guard = client.memory.guards.find(polluter[0])
    assert guard is not None
    assert guard.uses.successes == guard.uses.attempts  # no first hop can do that
    assert guard.builds.successes == guard.builds.attempts
    client.finish(question)
    assert client.answers[question] == b"Hello world And more."


def test_a_first_hop_that_swallows_an_answer_is_found_by_the_pings() -> None:
    client = Client(relays=40, keep_ahead=False)
    question = client.ask()
    swallower = client.core.hops(question)[2].ids[0]
    client.damage = lambda carried: (
        replace(carried, frame=b"") if carried.sender == swallower else carried
    )
    for _ in range(frames.WINDOW_FRAMES + 2):
        client.say(client.replies[question], [(frames.NOTHING, b"")])
    guard = client.memory.guards.find(swallower)
    assert guard is not None
    assert guard.builds == Tally(0, 0)
    client.finish(question)  # the set is kept until it is known who is at fault
    client.run(13.0)
    guard = client.memory.guards.find(swallower)
    assert guard is not None
    assert (guard.builds, guard.uses) == (Tally(1, 0), Tally(2, 1))
    assert client.paths._paths == {}
    others = {g.builds for g in client.memory.guards.guards if g.node != swallower}
    assert others == {Tally(1, 1)}


def test_puzzles_are_solved() -> None:
    client = Client(limits=RelayLimits(setups_per_s=1e9))
    for member in client.world.line:
        member.core._puzzle.difficulty = 6
    question = client.ask()
    client.run(1.0)
    client.finish(question)
    assert client.whole == {question}


@pytest.mark.parametrize(("ahead_s", "way"), [(3_000.0, "ahead of"), (-3_000.0, "behind")])
def test_a_wrong_clock_is_said(ahead_s: float, way: str) -> None:
    client = Client(clock_ahead_s=ahead_s)
    question = client.ask()
    client.run(11.0)
    assert f"clock is about 50 minutes {way} the relays'" in str(client.errors[question])


def test_an_old_route_set_is_said() -> None:
    client = Client()
    client.read_routes(height=50)
    client.memory.view = type(client.memory.view)(50, b"old" * 11)
    for number in range(1, 21):
        client.world.known.discard(node_id(number))
    question = client.ask()
    client.run(11.0)
    said = str(client.errors[question])
    assert "route set is older than the relays' (height 50, theirs 77)" in said


def test_a_relay_with_another_key_is_said() -> None:
    client = Client(relays=9)
    client.world.add(node_id(4))  # the same relay with a key that the ledger does not know
    question = client.ask()
    client.run(11.0)
    assert "relay-4 does not hold the onion key" in str(client.errors[question])


def test_a_full_network_is_said() -> None:
    client = Client(limits=RelayLimits(max_paths_a_stranger=0))
    question = client.ask()
    client.run(11.0)
    assert "no room" in str(client.errors[question])


def test_first_hops_that_never_have_room_are_passed_over() -> None:
    client = Client(relays=40, keep_ahead=False)
    client.finish(client.ask())
    full = {guard.node for guard in client.memory.guards.guards[:2]}
    for node in full:
        core = client.world.members[node].core
        core.limits = replace(core.limits, max_paths_a_stranger=0)
    question = client.ask()
    client.run(1.0)
    client.finish(question)
    assert client.whole == {0, question}
    first_hops = {hops.ids[0] for hops in client.core.hops(question)}
    assert len(first_hops) == 4
    assert not first_hops & full


def test_a_path_that_answered_is_its_guards_success_once_it_is_over() -> None:
    client = Client(keep_ahead=False)
    question = client.ask()
    tallies = {guard.builds for guard in client.memory.guards.guards}
    assert tallies == {Tally(0, 0)}
    client.finish(question)
    assert {guard.builds for guard in client.memory.guards.guards} == {Tally(1, 1)}


def test_nine_relays_make_three_paths() -> None:
    client = Client(relays=9)
    question = client.ask()
    client.finish(question)
    assert client.whole == {question}
    assert len(client.core.hops(question)) == 3


def test_a_client_that_relays_is_on_none_of_its_paths() -> None:
    client = Client(relays=13, own=node_id(3))
    for _ in range(5):
        client.ask()
    assert not any(guard.node == node_id(3) for guard in client.memory.guards.guards)
    paths = [running.hops for running in client.paths._paths.values()]
    assert len(paths) >= 20
    assert not any(node_id(3) in hops.ids for hops in paths)


def test_only_frames_of_ours_are_known() -> None:
    client = Client()
    client.ask()
    (key, link) = next(iter(client.paths._by_link))
    frame = encode_frame(link, CELL, bytes(2039))
    assert client.paths.knows(key, frame)
    assert not client.paths.knows(key, encode_frame(b"x" * 8, CELL, bytes(2039)))
    assert client.core.frame_arrived(key, b"", client.at) == []
    assert client.core.frame_arrived(key, link + b"garbage", client.at) == []


def test_shutting_leaves_nothing_behind() -> None:
    client = Client()
    for session in (None, 1, 2):
        client.ask(session)
    client.do(client.core.shut(client.at))
    assert sum(client.world.open_paths()) == 0
    assert client.paths._paths == {}
    assert client.paths._by_link == {}
    client.run(5.0)
    assert sum(client.world.open_paths()) == 0
