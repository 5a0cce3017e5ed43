"""What relays have in common: who runs them, which network they are in, how long they are known.

Two relays of one operator or in one network may be one watcher. Operators are declared, so this
stops the careless and the honest; networks cost money, so this slows the others down. The age of
a registration keeps relays away that were made for an attack of today.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

from overlay.core.draw import Draw
from planetserve.records import NodeRecord

IPV4_PREFIX_BITS = 16
IPV6_PREFIX_BITS = 32
TRIES = 32


@dataclass(frozen=True, slots=True)
class Traits:
    """`operator` is None where none is declared, which makes the relay an operator of its own;
    `network` is None for host names and for addresses that are not global."""

    operator: str | None
    network: str | None


@dataclass(frozen=True, slots=True)
class Kin:
    """The operators and networks of some nodes, as far as they have any."""

    operators: frozenset[str | None] = frozenset()
    networks: frozenset[str | None] = frozenset()


NOBODY = Kin()


class Conflicts(NamedTuple):
    """What a relay shares with others, each 0 or 1 for one relay; compared from the left.

    The first two are with the target of the path's questions and concern its last relay only.
    """

    target_operator: int = 0
    target_network: int = 0
    path_operator: int = 0
    path_network: int = 0
    set_operator: int = 0
    set_network: int = 0

    def plus(self, other: Conflicts) -> Conflicts:
        return Conflicts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def told(conflicts: Conflicts) -> list[str]:
    """What the relays of a path share although they should not, for people to read."""
    whats = (
        "the last relay has the model node's operator",
        "the last relay is in the model node's network",
        "its relays share an operator",
        "its relays share a network",
        "it shares an operator with another path",
        "it shares a network with another path",
    )
    return [what for what, count in zip(whats, conflicts, strict=True) if count]


@lru_cache(maxsize=16_384)
def network_of(endpoint: str) -> str | None:
    """The /16 of a global IPv4 address, the /32 of an IPv6 one, in `tcp://host:port`."""
    try:
        address = ip_address(urlsplit(endpoint).hostname or "")
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not address.is_global:
        return None
    bits = IPV4_PREFIX_BITS if address.version == 4 else IPV6_PREFIX_BITS
    return str(ip_network(f"{address}/{bits}", strict=False))


def traits_of(node: NodeRecord) -> Traits:
    return Traits(node.operator or None, network_of(node.endpoints.get("overlay", "")))


def kin_of(nodes: Iterable[NodeRecord]) -> Kin:
    traits = [traits_of(node) for node in nodes]
    return Kin(
        frozenset(item.operator for item in traits if item.operator is not None),
        frozenset(item.network for item in traits if item.network is not None),
    )


def shared(node: Traits, others: Kin) -> tuple[int, int]:
    """Whether one of `others` has the operator of `node`, and whether one has its network."""
    return int(node.operator in others.operators), int(node.network in others.networks)


def conflicts(
    node: Traits, path: Kin = NOBODY, rest: Kin = NOBODY, target: Kin = NOBODY
) -> Conflicts:
    """What `node` shares with the relays of its own path, with those of the `rest` of its set,
    and with the model node that it would be the last relay before."""
    return Conflicts(*shared(node, target), *shared(node, path), *shared(node, rest))


def least_in_conflict(
    relays: Sequence[NodeRecord], path: Kin, rest: Kin, target: Kin, draw: Draw
) -> tuple[NodeRecord, Conflicts]:
    """One of the `relays` with the fewest conflicts, uniformly, and its conflicts.

    Most relays of a large network have none; then a few draws find one, with the same chances as a
    look at all of them gives.
    """
    for _ in range(TRIES):
        relay = relays[draw(len(relays))]
        if not any(conflicts(traits_of(relay), path, rest, target)):
            return relay, Conflicts()
    ranks = [conflicts(traits_of(relay), path, rest, target) for relay in relays]
    best = min(ranks)
    fit = [relay for relay, rank in zip(relays, ranks, strict=True) if rank == best]
    return fit[draw(len(fit))], best


def seasoned(
    relays: Sequence[NodeRecord], height: int, min_age_blocks: int, at_least: int
) -> list[NodeRecord]:
    """The relays that are registered since `min_age_blocks` at `height`.

    Where they are fewer than `at_least`, the oldest so many, with all that are as old as the
    youngest of these: node ids break no tie, since anyone can try keys until an id suits.
    """
    old = [relay for relay in relays if relay.registered + min_age_blocks <= height]
    if len(old) >= at_least or len(old) == len(relays):
        return old
    registered = sorted(relay.registered for relay in relays)
    youngest = registered[min(at_least, len(registered)) - 1]
    return [relay for relay in relays if relay.registered <= youngest]
