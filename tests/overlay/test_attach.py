"""What takes an answer up again, behind its seal."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import attach
from overlay.core.attach import ATTACH_BYTES, MAX_ATTACHES, Attach, AttachError
from overlay.core.request import (
    ReceivedAttach,
    ReceivedClove,
    RequestError,
    StreamReader,
    open_stream,
)
from overlay.core.sealed import SealedError
from tests.overlay.door import SECRET, TARGET, Door, N, cut

attaches = st.builds(
    Attach,
    st.integers(0, attach.MAX_INDEX),
    st.integers(0, MAX_ATTACHES - 1),
    st.integers(0, (1 << 32) - 1),
)


@given(attaches)
def test_round_trip(item: Attach) -> None:
    assert attach.is_attach(attach.encode(item))
    assert attach.decode(attach.encode(item)) == item


@pytest.mark.parametrize("length", [*range(8), ATTACH_BYTES - 1, ATTACH_BYTES + 1])
def test_every_other_length_is_refused(length: int) -> None:
    with pytest.raises(AttachError):
        attach.decode((attach.encode(Attach(1, 0, 0)) + b"\0")[:length])


@pytest.mark.parametrize(("place", "value"), [(0, 0x20), (1, MAX_ATTACHES), (6, 1), (-1, 1)])
def test_what_is_not_canonical_is_refused(place: int, value: int) -> None:
    damaged = bytearray(attach.encode(Attach(1, 2, 3)))
    damaged[place] = value
    with pytest.raises(AttachError):
        attach.decode(bytes(damaged))


def test_a_stream_of_no_cells_is_none() -> None:
    with pytest.raises(RequestError):
        StreamReader().feed(bytes(38))


def test_a_last_relay_sees_a_short_question() -> None:
    """The same chunks as of a clove of one cell, and of random bytes but for the number of cells:
    nothing in them tells an attach."""
    door = Door()
    request = door.request(b"a long question" * 999)
    wanted = request.sealer.attach(Attach(2, 0, 77), door.entropy)
    short = door.request(b"short")
    assert [len(chunk) for chunk in cut(wanted.data)] == [len(c) for c in cut(short.streams[0])]
    assert wanted.data[:2] == short.streams[0][:2] == b"\0\1"
    opened = open_stream(TARGET, SECRET, wanted.data)
    assert isinstance(opened, ReceivedAttach)
    assert (opened.attach, opened.path_key) == (Attach(2, 0, 77), wanted.path_key)
    damaged = bytearray(wanted.data)
    damaged[Random(1).randrange(2, len(damaged))] ^= 1
    with pytest.raises(SealedError):
        open_stream(TARGET, SECRET, bytes(damaged))


def test_what_is_sent_again_has_nothing_in_common_with_what_was_sent() -> None:
    """Else two last relays of a clove's paths, one after the other, could tell that they are of
    one user's question."""
    door = Door()
    request = door.request()
    streams = [request.streams[1]]
    streams += [request.sealer.clove(1, door.entropy).data for _ in range(2)]
    streams += [request.sealer.attach(Attach(1, 0, 5), door.entropy).data for _ in range(2)]
    pieces = [{s[at : at + 6] for at in range(2, len(s) - 5)} for s in streams]
    assert len(set.union(*pieces)) == sum(map(len, pieces))
    again = open_stream(TARGET, SECRET, streams[1])
    first = open_stream(TARGET, SECRET, streams[0])
    assert isinstance(again, ReceivedClove)
    assert isinstance(first, ReceivedClove)
    assert (again.message_id, again.clove) == (first.message_id, first.clove)
    assert again.path_key != first.path_key
    assert len(request.path_keys) == N
