"""The HR-tree: time to cut, hash and look up a prompt, memory, and chunks taken for others; its
sync is in `bench.hrtree_sync`.

Prompts are conversations under shared system prompts, in 64 bytes a chunk. Times are of the
processor; trees of different sizes are looked up in the same rounds.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

from bench import hrtree_sync
from bench.figures import Figure, Report
from modelnode.core.chunks import Path, Scheme, path_of
from modelnode.core.hr_tree import HRTree

SCHEME = Scheme("text", 64)
SIZES = (100, 1_000, 10_000, 100_000)
LIMIT_CHUNK_US = 2.0
LIMIT_GROWTH = 1.2
LIMIT_BYTES = 64.0
OWNERS = 8
SYSTEMS = 50
PROMPTS, PROMPT_CHUNKS = 100, 60
ROUNDS = 31
FAN_OUTS = (32, 200, 1_000)
UNKNOWN_PROMPTS = 20_000


def run() -> Report:
    return Report("hrtree", (*_times(), *_memory(), *_false_matches(), *hrtree_sync.figures()))


def _times() -> list[Figure]:
    """Prompts of which half is known, as a conversation's next turn is, or a shared beginning."""
    source = random.Random(1)
    texts = [source.randbytes(64 * PROMPT_CHUNKS) for _ in range(PROMPTS)]
    known = [path_of(text, SCHEME)[:PROMPT_CHUNKS] for text in texts]
    trees = [_filled(size, known, source) for size in SIZES]
    taken: list[list[float]] = [[] for _ in (*trees, "hash")]
    for _ in range(ROUNDS):
        for tree, times in zip(trees, taken, strict=False):
            times.append(_chunk_us(partial(_look_up, tree), texts))
        taken[-1].append(_chunk_us(_hash, texts))
    medians = [statistics.median(times) for times in taken]
    # Of each round on its own, so that a slow moment of the machine slows both.
    growth = statistics.median(
        most / least for least, most in zip(taken[0], taken[len(SIZES) - 1], strict=True)
    )
    return [
        *(
            Figure(f"hash and look up, {size} prefixes", us, "us/chunk", limit=LIMIT_CHUNK_US)
            for size, us in zip(SIZES, medians, strict=False)
        ),
        Figure("hash alone", medians[-1], "us/chunk"),
        Figure("100,000 prefixes beside 100", growth, "times", limit=LIMIT_GROWTH),
        *_insertion(trees[-1], source),
    ]


def _look_up(tree: HRTree, text: bytes) -> object:
    return tree.match(path_of(text, SCHEME))


def _hash(text: bytes) -> object:
    return path_of(text, SCHEME)


def _filled(prefixes: int, known: list[Path], source: random.Random) -> HRTree:
    tree = HRTree(source.getrandbits(64))
    systems = [path[:40] for path in known[:SYSTEMS]]
    for number, path in enumerate(known):
        tree.insert(path, number % OWNERS, 0.0)
    for number in range(prefixes - len(known)):
        tail = source.randbytes(2 * source.randrange(10, 40))
        tree.insert(source.choice(systems) + tail, number % OWNERS, 0.0)
    return tree


def _chunk_us(look_up: Callable[[bytes], object], texts: list[bytes]) -> float:
    gc.collect()
    gc.disable()
    try:
        started_ns = time.thread_time_ns()
        for text in texts:
            look_up(text)
        return (time.thread_time_ns() - started_ns) / 1e3 / len(texts) / PROMPT_CHUNKS
    finally:
        gc.enable()


def _insertion(tree: HRTree, source: random.Random) -> list[Figure]:
    """A conversation's turns, each registered with a reply, at the largest tree."""
    paths = []
    for _ in range(1_000):
        path = source.randbytes(80)
        for _ in range(4):
            path += source.randbytes(2 * source.randrange(6, 19))
            paths.append(path)
    started_ns = time.thread_time_ns()
    for number, path in enumerate(paths):
        tree.insert(path, number // 4 % OWNERS, 1.0)
    return [
        Figure("register a turn", (time.thread_time_ns() - started_ns) / 1e3 / len(paths), "us")
    ]


def _memory() -> list[Figure]:
    source = random.Random(2)
    figures = []
    for name, paths, limit in (
        ("conversations", _conversations(source), LIMIT_BYTES),
        ("a branch each chunk", _branches(source), None),
        ("unique prompts of 2 chunks", [source.randbytes(4) for _ in range(50_000)], None),
    ):
        tracemalloc.start()
        tree = HRTree(source.getrandbits(64))
        before, _ = tracemalloc.get_traced_memory()
        for number, path in enumerate(paths):
            tree.insert(path, number // 4 % OWNERS, 0.0, number // 4 % OWNERS)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stats = tree.stats()
        a_chunk = (after - before) / stats.owned_chunks
        figures.append(Figure(f"memory, {name}", a_chunk, "B/chunk and owner", limit=limit))
        estimate = Figure(
            f"memory as estimated, {name}", stats.bytes, "B", peer=float(after - before)
        )
        figures.append(estimate)
    return figures


def _conversations(source: random.Random) -> list[Path]:
    """Four turns each, of 6 to 18 chunks, under system prompts of 30 chunks."""
    systems = [source.randbytes(60) for _ in range(SYSTEMS)]
    paths = []
    for _ in range(5_000):
        path = source.choice(systems)
        for _ in range(4):
            path += source.randbytes(2 * source.randrange(6, 19))
            paths.append(path)
    return paths


def _branches(source: random.Random) -> list[Path]:
    """As bad as it gets: each chunk is a node, and nothing is shared."""
    trunk = source.randbytes(2 * 60)
    cuts = [2 * source.randrange(60) for _ in range(30_000)]
    return [trunk[:cut] + source.randbytes(2) for cut in cuts]


def _false_matches(fan_outs: tuple[int, ...] = FAN_OUTS) -> list[Figure]:
    """How often an unknown prompt is taken for one of so many known ones, at its first chunk."""
    source = random.Random(3)
    figures = []
    for fan_out in fan_outs:
        for bits in (8, 16):
            tree = HRTree(source.getrandbits(64))
            kept = 0
            while kept < fan_out:
                kept += 1
                tree.insert(_cut(path_of(source.randbytes(64), SCHEME), bits), 0, 0.0)
            wrong = sum(
                bool(tree.match(_cut(path_of(source.randbytes(64), SCHEME), bits)))
                for _ in range(UNKNOWN_PROMPTS)
            )
            expected = 100 * (1 - (1 - 2.0**-bits) ** fan_out)
            name = f"false matches, {fan_out} children, {bits} bits"
            figures.append(Figure(name, 100 * wrong / UNKNOWN_PROMPTS, "%", peer=expected))
    return figures


def _cut(path: Path, bits: int) -> Path:
    """The path with as many bits a fingerprint."""
    return path if bits == 16 else bytes(byte for at in path[::2] for byte in (0, at))
