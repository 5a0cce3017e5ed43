"""Which probers judge which nodes in an epoch, privately and beyond anyone's choice.

A prober's ticket is its VRF output (RFC 9381) for the epoch's seed: one for all nodes. Nobody
else can compute it until the prober reveals its proof, and the prober itself cannot choose it.
Hashed with a node's id, the ticket says whether the prober is assigned that node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import lru_cache

from planetserve.encoding import encode
from planetserve.fixedpoint import ONE_PPM

DRAW_BITS = 64


def first_seed(chain_id: str) -> bytes:
    """The seed of epoch 0, 32 bytes."""
    return hashlib.sha256(b"planetserve/seed/v1\0" + encode({"chain_id": chain_id})).digest()


def contributor_of(
    seed: bytes, powers: Sequence[tuple[bytes, int]], revealed: Collection[bytes]
) -> bytes | None:
    """The prober whose VRF output makes the seed after `seed`; None when nobody `revealed`.

    Probers are drawn from `powers` (id and power, in an order that nobody can choose), with
    chances as their powers and none twice, until one is among those that revealed.
    """
    left = list(powers)
    draws = 0
    while left:
        digest = hashlib.sha256(
            b"planetserve/contributor/v1\0" + seed + bytes([draws >> 8, draws & 255])
        ).digest()
        point = int.from_bytes(digest, "big") % sum(power for _, power in left)
        at = 0
        while point >= left[at][1]:
            point -= left[at][1]
            at += 1
        prober, _ = left.pop(at)
        if prober in revealed:
            return prober
        draws += 1
    return None


def next_seed(seed: bytes, output: bytes) -> bytes:
    """The seed of the epoch after one with `seed`, from the VRF output of `contributor_of`, empty
    when there is none.

    The output is the only one that the contributor's key can prove for `seed`. All that liars can
    choose is whether to show it, in the less than a third of all epochs in which they are drawn.
    Were all outputs mixed instead, k of them could choose among 2^k seeds.
    """
    return hashlib.sha256(
        b"planetserve/seed/v1\0" + encode({"output": output, "seed": seed})
    ).digest()


@lru_cache(maxsize=64)
def ticket_input(chain_id: str, epoch: int, seed: bytes) -> bytes:
    """What a prober proves its VRF output for."""
    return b"planetserve/ticket/v1\0" + encode({"chain_id": chain_id, "epoch": epoch, "seed": seed})


def is_assigned(output: bytes, node: bytes, chance_ppm: int) -> bool:
    """Whether the ticket with the VRF `output` (64 bytes) assigns `node`, which happens to
    `chance_ppm` of all tickets."""
    if chance_ppm >= ONE_PPM:
        return True
    digest = hashlib.sha256(b"planetserve/draw/v1\0" + output + node).digest()
    draw = int.from_bytes(digest[: DRAW_BITS // 8], "big")
    return draw * ONE_PPM < chance_ppm << DRAW_BITS


def sample_ppm(probers_per_node: int, verifiers: int) -> int:
    """The chance with which about `probers_per_node` of `verifiers` are drawn; all of them when
    there are no more."""
    if verifiers <= probers_per_node:
        return ONE_PPM
    return probers_per_node * ONE_PPM // verifiers
