"""Random chains, exported at some height: the import goes on as the original does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random

import pytest

from abci_app.core.apphash import advance, app_hash
from abci_app.core.export import exported_state, exported_text
from abci_app.core.genesis import genesis
from abci_app.core.transition import BlockResult
from planetserve.statekeys import STORES
from planetserve.transactions import KINDS, decode_transaction
from tests.abci_app import invariants
from tests.abci_app.operations import PARAMS, Operations
from tests.abci_app.world import CHAIN_ID, World


class Trees:
    """The stores' trees of a chain, kept up to date block by block."""

    def __init__(self, items: Mapping[bytes, bytes]) -> None:
        self.nodes: dict[tuple[str, bytes], bytes] = {}
        self.roots: dict[str, bytes] = {}
        self.apply(items, ())

    def apply(self, writes: Mapping[bytes, bytes | None], cleared: tuple[str, ...]) -> bytes:
        """Returns the app hash."""
        for key in [key for key in self.nodes if key[0] in cleared]:
            del self.nodes[key]
        self.roots, nodes = advance(
            lambda store, path: self.nodes.get((store, path)), self.roots, writes, cleared
        )
        for key, node in nodes.items():
            if node is None:
                self.nodes.pop(key, None)
            else:
                self.nodes[key] = node
        return app_hash(self.roots)


class Chain:
    def __init__(self, world: World) -> None:
        self.world = world
        self.trees = Trees(world.items)

    def block(self, *raw: bytes) -> tuple[BlockResult, bytes]:
        result = self.world.block(*raw)
        return result, self.trees.apply(result.writes, result.cleared)


def imported(original: World) -> World:
    """The chain that starts from what the original exports now."""
    text = exported_text(exported_state(sorted(original.items.items()), original.height))
    world = World()
    writes = genesis(CHAIN_ID, text.encode(), original.height + 1)
    world.items = {key: value for key, value in writes.items() if value is not None}
    world.height = original.height
    return world


def simulate(seed: int, blocks: int) -> Counter[str]:
    """How often each kind of transaction succeeded."""
    random = Random(seed)
    original = Chain(World(PARAMS, (10, 10, 9, 8)))
    operations = Operations(random, original.world)
    split = random.randrange(1, blocks)
    succeeded: Counter[str] = Counter()
    copy: Chain | None = None
    for number in range(blocks):
        if number == split:
            copy = Chain(imported(original.world))
            assert app_hash(copy.trees.roots) == app_hash(original.trees.roots)
        operations.queue()
        raws = original.world.queued
        result, digest = original.block()
        invariants.check(original.world.items, original.world.height, PARAMS["candidate_blocks"])
        for raw, outcome in zip(raws, result.results, strict=True):
            kind = decode_transaction(raw).kind
            succeeded[kind] += not outcome.code
        succeeded["settled"] += len(result.settlement.results) if result.settlement else 0
        succeeded["power"] += len(result.validator_updates)
        if copy is not None:
            again, same = copy.block(*raws)
            assert (again, same) == (result, digest)
    assert copy is not None
    assert copy.world.items == original.world.items
    whole = Trees(original.world.items)
    assert whole.roots == original.trees.roots
    assert whole.nodes == original.trees.nodes == copy.trees.nodes
    assert {key.partition(b"/")[0].decode() for key in original.world.items} <= set(STORES)
    return succeeded


def test_an_imported_chain_goes_on_as_the_exported_one() -> None:
    succeeded: Counter[str] = Counter()
    for seed in range(12):
        succeeded += simulate(seed, 90)
    for kind in (*KINDS, "settled", "power"):
        assert succeeded[kind] > 0, f"no {kind} ever succeeded: {succeeded}"


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_many_imported_chains_go_on() -> None:
    for seed in range(12, 212):
        simulate(seed, 150)
