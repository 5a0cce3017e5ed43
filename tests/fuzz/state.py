"""A small chain with something of everything in it, for the targets to act on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from random import Random

from tests.abci_app.operations import COMMIT_BLOCKS, EPOCH_BLOCKS, PARAMS, Operations
from tests.abci_app.world import World

SEED, POWERS = 3, (10, 10, 9, 8)
FIRST_HEIGHT = 8 * EPOCH_BLOCKS
PLACES = (1, COMMIT_BLOCKS + 1, EPOCH_BLOCKS - 1)
"""Blocks of an epoch that take commitments, take reveals and settle."""


@lru_cache(maxsize=1)
def worlds() -> tuple[World, ...]:
    """The chain before a block of each of `PLACES`."""
    world = World(PARAMS, POWERS)
    operations = Operations(Random(SEED), world)
    states: list[World] = []
    while len(states) < len(PLACES):
        place = world.height + 1 - world.window.start
        if world.height >= FIRST_HEIGHT and place == PLACES[len(states)]:
            states.append(_copy(world))
        operations.queue()
        world.block()
    return tuple(states)


@lru_cache(maxsize=1)
def blocks() -> tuple[tuple[bytes, ...], ...]:
    """The transactions of the blocks up to the first of `worlds`."""
    world = World(PARAMS, POWERS)
    operations = Operations(Random(SEED), world)
    found = []
    while world.height < worlds()[0].height:
        operations.queue()
        found.append(world.queued)
        world.block()
    return tuple(found)


def _copy(world: World) -> World:
    copy = World(PARAMS, POWERS)
    copy.items, copy.height = dict(world.items), world.height
    return copy


def changed(items: Mapping[bytes, bytes], writes: Mapping[bytes, bytes | None]) -> list[bytes]:
    """The keys whose record is another after `writes`."""
    return sorted(key for key, value in writes.items() if items.get(key) != value)
