"""The last relays of all paths together: n cloves, k are enough, and they hold not one.

They see every stream of a request, with its length; they have keys of their own, know the model
node's public key, and can ask it whatever they like. The control is the same attempts with the
model node's secret key, which succeed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from random import Random

import pytest
from nacl.bindings import crypto_scalarmult_base

from overlay.core import sida
from overlay.core.answering import Route
from overlay.core.frames import AnswerAssembler
from overlay.core.reasons import Reason
from overlay.core.replay_filter import SECRET_BYTES, ReplayFilter
from overlay.core.request import COUNT_BYTES, MESSAGE_ID_BYTES, open_request, prepare
from planetserve.errors import RemoteProtocolError
from tests.overlay.door import PERIOD, PUBLIC, SECRET, TARGET, Door, K, N, open_clove

QUESTION = b"where do the xylophones grow " * 60
OWN_SECRETS = [Random(number).randbytes(32) for number in range(N)]
WINDOW = 6


def asked(door: Door, payload: bytes = QUESTION) -> list[Route]:
    return door.deliver(door.request(payload), range(N))


def attempts(streams: Sequence[bytes], secrets: Iterable[bytes]) -> set[bytes]:
    """Every payload that comes of the streams as they are, and of what the secrets open."""
    found = set()
    for secret in secrets:
        cloves = []
        for stream in streams:
            for offset in (0, COUNT_BYTES, COUNT_BYTES + 32, COUNT_BYTES + 32 + MESSAGE_ID_BYTES):
                try:
                    cloves.append(sida.decode_clove(stream[offset:]))
                except sida.SidaError:
                    continue
            try:
                cloves.append(open_clove(TARGET, secret, stream).clove)
            except RemoteProtocolError:
                continue
        for count in range(1, len(cloves) + 1):
            for chosen in combinations(cloves, count):
                try:
                    found.add(open_request(TARGET, secret, chosen).payload)
                except RemoteProtocolError:
                    continue
    return found


@pytest.mark.parametrize("count", [K, N])
def test_k_or_all_n_streams_say_nothing(count: int) -> None:
    streams = Door().request(QUESTION).streams[:count]
    assert attempts(streams, [*OWN_SECRETS, PUBLIC, bytes(32)]) == set()
    assert not any(QUESTION[:8] in stream for stream in streams)
    assert attempts(streams, [SECRET]) == {QUESTION}


def test_streams_of_one_request_cannot_be_told_from_those_of_two() -> None:
    """Two of one question, and one each of two questions of the same length, have as little in
    common: their number of cells."""
    door = Door()
    first, second = (door.request(payload) for payload in (QUESTION, QUESTION[::-1]))
    assert equal_parts(first.streams[0], first.streams[1]) == equal_parts(
        first.streams[0], second.streams[1]
    )
    assert equal_parts(first.streams[0], first.streams[0]) != set()


def equal_parts(first: bytes, second: bytes) -> set[bytes]:
    """What stands in both, but for the number of cells at the start."""
    return windows(first[COUNT_BYTES:]) & windows(second[COUNT_BYTES:])


def windows(data: bytes) -> set[bytes]:
    return {data[start : start + WINDOW] for start in range(len(data) - WINDOW + 1)}


def test_the_length_is_that_of_its_step() -> None:
    door = Door()
    sizes = [1, 100, 5470, 5471, 11_000]
    lengths = [{len(stream) for stream in door.request(bytes(size)).streams} for size in sizes]
    assert lengths == [{1950}] * 3 + [{3920}] * 2


def test_an_answer_says_nothing_to_all_of_its_last_relays() -> None:
    door = Door()
    routes = asked(door)
    door.write(b"in the garden")
    door.finish()
    door.advance(1.0)
    chunks = [door.arrived[route] for route in routes]
    for keys in ([bytes(32)] * N, OWN_SECRETS):
        back = AnswerAssembler(keys[0], tuple(keys), N, K)
        data = [piece for i in range(N) for chunk in chunks[i] for piece in back.feed(i, chunk)]
        assert data == []
    everything = b"".join(chunk for path in chunks for chunk in path)
    assert b"garden" not in everything
    # What two paths have in common are the 4 bytes of a chunk's number.
    for path, other in combinations(chunks, 2):
        assert set().union(*map(windows, path)) & set().union(*map(windows, other)) == set()


def test_asking_the_model_node_again_answers_nobody() -> None:
    """They have all cloves, and paths of their own to send them over."""
    door = Door()
    request = door.request(QUESTION)
    door.deliver(request, range(N))
    again = door.deliver(request, range(N))
    door.write(b"in the garden")
    door.finish()
    door.advance(60.0)
    late = door.deliver(request, range(N))
    assert len(door.ready) == 1
    assert [door.arrived[route] for route in (*again, *late)] == [[]] * (2 * N)
    assert {door.ended[route] for route in late} == {Reason.REPLAYED}


def test_an_answer_that_a_model_node_gives_twice_says_nothing_more() -> None:
    """The worst case: it has forgotten all, and the replay is sent on to it. The relays get frames
    that open with no key of theirs, and that repeat nothing of the first answer's."""
    request, answers = Door().request(QUESTION), []
    for seed in (1, 2):
        forgetful = Door(seed=seed, replay=ReplayFilter(bytes(SECRET_BYTES), PERIOD, 1 << 14))
        routes = forgetful.deliver(request, range(N))
        forgetful.write(b"in the garden")
        forgetful.finish()
        forgetful.advance(1.0)
        answers.append([chunk for route in routes for chunk in forgetful.arrived[route]])
    first, second = (set().union(*(windows(chunk[20:]) for chunk in part)) for part in answers)
    assert first & second == set()
    assert {chunk[:16] for chunk in answers[0]} & {chunk[:16] for chunk in answers[1]} == set()


def test_a_relay_cannot_make_a_clove_that_joins_a_request() -> None:
    """It knows neither the message id nor the key; one of its own index is taken first, and the
    request is whole all the same."""
    door = Door()
    request = door.request(QUESTION)
    forged = prepare(b"mine", TARGET, PUBLIC, N, K, PERIOD, Random(3).randbytes).streams
    for index in range(N):
        door.stream(index, forged[index][:-1] + request.streams[index][-1:])
    door.deliver(request, range(K))
    assert [ready.payload for ready in door.ready] == [QUESTION]


def test_a_key_of_ones_own_in_place_of_the_model_nodes() -> None:
    """What the target's key in the ledger is for: with another one the colluders read all."""
    own = OWN_SECRETS[0]
    deceived = prepare(
        QUESTION, TARGET, crypto_scalarmult_base(own), N, K, PERIOD, Random(4).randbytes
    )
    assert attempts(deceived.streams, [own]) == {QUESTION}
