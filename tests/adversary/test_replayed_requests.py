"""Everything that goes to a model node once more, at every moment: the engine is asked once, no
replay gets a chunk, and no key and nonce serve for two plaintexts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overlay.core.answering import Route
from overlay.core.attach import Attach
from overlay.core.reasons import Reason
from overlay.core.request import OutgoingRequest, RequestSealer
from overlay.replay_log import ReplayLog
from tests.overlay.door import PERIOD, Door, N

MOMENTS = ["assembling", "accepted", "answering", "padding", "lingering", "over", "next period"]


def until(door: Door, moment: str, request: OutgoingRequest) -> list[Route]:
    """A request's life up to this moment; the streams of its owner."""
    routes = door.deliver(request, [0, 1])
    if moment == "assembling":
        return routes
    routes += door.deliver(request, [2, 3])
    door.write(b"accepted")
    door.advance(0.1)
    if moment == "accepted":
        return routes
    door.write(b"token")
    door.advance(0.1)
    if moment == "answering":
        return routes
    door.finish()
    door.advance(0.06)
    if moment == "padding":
        return routes
    door.advance(1.0)
    if moment == "lingering":
        return routes
    door.advance(20.0)
    if moment == "next period":
        door.period += 1
        door.advance(1.0)
    return routes


def no_nonce_serves_twice(door: Door) -> bool:
    """Salt and number, in clear in each chunk, choose key and nonce."""
    sealed: dict[bytes, bytes] = {}
    return all(
        sealed.setdefault(chunk[:20], chunk[20:]) == chunk[20:]
        for chunks in door.arrived.values()
        for chunk in chunks
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_cloves_again(moment: str) -> None:
    door = Door()
    request = door.request()
    owned = until(door, moment, request)
    again = door.deliver(request, [0, 1])
    before = {route: len(door.arrived[route]) for route in owned}
    if moment == "assembling":
        door.deliver(request, [2, 3])
    elif moment == "accepted":
        door.write(b"token")
    door.advance(0.3)
    assert len(door.ready) == 1
    assert [door.arrived[route] for route in again] == [[], []]
    assert all(route in door.ended for route in again)
    if moment in ("accepted", "answering"):
        assert all(len(door.arrived[route]) > before[route] for route in owned)
    assert no_nonce_serves_twice(door)


@pytest.mark.parametrize("periods", [0, 1, 2])
@pytest.mark.parametrize("orderly", [True, False])
def test_a_request_again_after_a_restart(tmp_path: Path, periods: int, orderly: bool) -> None:
    log = ReplayLog(tmp_path / "replay", PERIOD, -1)
    door = Door(replay=log.filter)
    request = door.request()
    door.deliver(request, range(N))
    log.remember(door.remembered[0])
    if orderly:
        log.close()
    later = ReplayLog(tmp_path / "replay", PERIOD + periods, -1)
    restarted = Door(seed=9, replay=later.filter, period=PERIOD + periods)
    routes = restarted.deliver(request, range(N))
    assert restarted.ready == []
    expected = Reason.REPLAYED if periods < 2 else Reason.PERIOD
    assert {restarted.ended[route] for route in routes} == {expected}


@pytest.mark.parametrize("moment", MOMENTS[1:])
def test_an_attach_again(moment: str) -> None:
    """A path is replaced; whoever saw the attach sends it again, before and after the next one."""
    door = Door()
    request = door.request()
    routes = until(door, moment, request)
    door.end(routes[1], Reason.NEIGHBOUR_GONE)
    taken = [request.sealer.attach(Attach(1, number, 0), door.entropy).data for number in range(2)]
    owned = door.stream(1, taken[0])
    replays = [door.stream(7, taken[0])]
    newer = door.stream(1, taken[1])
    replays += [door.stream(7, data) for data in taken]
    assert [door.arrived[route] for route in replays] == [[], [], []]
    assert all(route in door.ended for route in replays)
    known = moment not in ("over", "next period")
    assert (newer in door.ended) == (not known)
    assert (owned in door.ended) or not known
    assert bool(door.arrived[newer]) == known
    assert no_nonce_serves_twice(door)


def test_an_attach_for_another_clove_or_request() -> None:
    door = Door()
    requests = [door.request(), door.request()]
    for request in requests:
        door.deliver(request, range(N))
    attaches = [request.sealer.attach(Attach(0, 0, 0), door.entropy).data for request in requests]
    for at in (2, 34, 1_000, 1_934):  # the key, the sealed message id, zeros, the tag
        mixed = attaches[0][:at] + attaches[1][at : at + 16] + attaches[0][at + 16 :]
        assert door.ended[door.stream(5, mixed)] == Reason.TARGET_REFUSED
    secret = requests[0].sealer
    assert isinstance(secret, RequestSealer)
    guessed = replace(secret, message_id=secret.message_id[:-1] + b"?")
    forged = guessed.attach(Attach(0, 0, 0), door.entropy).data
    assert door.ended[door.stream(5, forged)] == Reason.TARGET_REFUSED
    assert door.counted["attached"] == 0


def test_an_attach_that_came_first_from_a_thief_costs_its_path_alone() -> None:
    """The relay that carries it can keep it back and send it over a link of its own: it gets what
    it would have got, and the owner's next attach takes the place."""
    door = Door()
    request = door.request()
    routes = door.deliver(request, range(N))
    door.end(routes[0], Reason.NEIGHBOUR_GONE)
    thief = door.stream(66, request.sealer.attach(Attach(0, 0, 0), door.entropy).data)
    door.write(b"hi")
    door.advance(0.1)
    assert len(door.arrived[thief]) == len(door.arrived[routes[1]]) == 1
    owned = door.stream(0, request.sealer.attach(Attach(0, 1, 0), door.entropy).data)
    assert thief in door.ended
    assert len(door.arrived[owned]) == 1
