"""What relays see of the paths through them, for attacks that compare or change it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from overlay.core.relay_path import RelayPath
from overlay.core.wire import FRAME_BYTES, ID_BYTES
from tests.overlay.world import Carried, World, node_id

CHI_SQUARE_255 = 347
"""Less than one run of uniform bytes in ten thousand is above it, at 255 degrees of freedom."""


def flipped(carried: Carried, bit: int) -> Carried:
    """The frame with one bit changed, the way a relay that sends it would mark it."""
    frame = int.from_bytes(carried.frame, "big") ^ 1 << 8 * FRAME_BYTES - 1 - bit
    return replace(carried, frame=frame.to_bytes(FRAME_BYTES, "big"))


def hops(count: int) -> list[bytes]:
    return [node_id(number) for number in range(1, count + 1)]


def came_to(world: World, node: bytes, since: int = 0) -> list[Carried]:
    """The frames that `node` received, but for the first `since` of the world."""
    return [carried for carried in world.carried[since:] if carried.receiver == node]


def kinds(frames: Iterable[Carried]) -> list[int]:
    return [carried.frame[ID_BYTES] for carried in frames]


def path_at(world: World, node: bytes) -> RelayPath:
    """The one path that the relay has."""
    (path,) = world.members[node].core._paths
    return path


def chi_square(data: bytes) -> float:
    """Of the bytes' values against the uniform distribution."""
    expected = len(data) / 256
    return sum((data.count(value) - expected) ** 2 / expected for value in range(256))
