"""A relay: the table of its paths, their limits, and which path a frame belongs to.

Each path's rules are in `overlay.core.relay_path`; here is what spans paths: set-up, quotas,
replay of set-up packets, expiry, and neighbours that go away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from overlay.core import relay_path
from overlay.core.cells import (
    CLOSE,
    DATA,
    EXCHANGE,
    EXCHANGE_END,
    LINK_ID_BYTES,
    SETUP,
    Cell,
    CellError,
    backward_id,
    decode_cell,
)
from overlay.core.effects import Count, Effect, Entropy, Peer, Send
from overlay.core.onion import SETUP_VALID_S, open_onion
from overlay.core.relay_path import Link, RelayPath

PathKey = tuple[Peer, bytes]
"""A path is known by the neighbour on the owner's side and its forward id there."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """`path_ttl_s` bounds a path's life, `max_remembered_setups` the packets kept against replay
    while they have not expired."""

    max_paths: int = 4096
    max_paths_per_peer: int = 512
    path_ttl_s: float = 900.0
    max_remembered_setups: int = 65_536


@dataclass(slots=True)
class Relay:
    """A relay's state; `frame_arrived`, `peer_gone` and `tick` are the ways in, their `now_s` is
    Unix time. `knows` says whether the ledger lists a node that may be dialled; `started_s` is
    when this relay began to remember set-up packets: older ones it refuses."""

    onion_secret: bytes
    knows: Callable[[bytes], bool]
    entropy: Entropy
    started_s: float = 0.0
    limits: RelayLimits = field(default_factory=RelayLimits)
    paths: dict[PathKey, RelayPath] = field(default_factory=dict)
    _backward: dict[PathKey, PathKey] = field(default_factory=dict)
    _exchanges: dict[PathKey, tuple[PathKey, bytes]] = field(default_factory=dict)
    _per_peer: dict[Peer, int] = field(default_factory=dict)
    _setups_seen: tuple[set[bytes], set[bytes]] = field(default_factory=lambda: (set(), set()))
    _setups_turned_s: float = 0.0

    def frame_arrived(self, peer: Peer, frame: bytes, now_s: float) -> list[Effect]:
        """A frame from `peer`; anything may be in it, nothing raises."""
        try:
            cell = decode_cell(frame)
        except CellError:
            return [Count("frame_malformed")]
        name = (peer, cell.link_id)
        if cell.command == SETUP:
            return self._set_up(peer, cell, now_s)
        if cell.command in (EXCHANGE, EXCHANGE_END):
            return self._from_target(name, cell)
        if name in self.paths:
            if cell.command == CLOSE:
                return [Count("path_closed_by_peer"), *self._close(name)]
            return self._step(name, relay_path.forward, cell)
        if name in self._backward:
            if cell.command == CLOSE:
                return [Count("path_closed_by_peer"), *self._close(self._backward[name])]
            return self._step(self._backward[name], relay_path.backward, cell)
        return [Count("cell_unknown_path")]

    def peer_gone(self, peer: Peer) -> list[Effect]:
        """The connection to `peer` broke: its paths close, exchanges with it end."""
        effects: list[Effect] = [Count("peer_gone")]
        for key, path in list(self.paths.items()):
            following = path.following.peer if path.following else None
            if peer in (path.previous.peer, following):
                effects += self._close(key)
                continue
            for exchange, value in list(path.exchanges.items()):
                if value.target == peer:
                    current = self.paths[key]
                    after, sends = relay_path.target_gone(current, exchange, self.entropy)
                    self._store(key, after)
                    effects += sends
        return effects

    def tick(self, now_s: float) -> list[Effect]:
        """Close what has expired; call it about once a second."""
        if now_s - self._setups_turned_s > 2 * SETUP_VALID_S:
            self._setups_seen = (set(), self._setups_seen[0])
            self._setups_turned_s = now_s
        expired = [key for key, path in self.paths.items() if path.expires_s <= now_s]
        effects: list[Effect] = []
        for key in expired:
            effects += [Count("path_expired"), *self._close(key)]
        return effects

    def _set_up(self, peer: Peer, cell: Cell, now_s: float) -> list[Effect]:
        key = (peer, cell.link_id)
        recent, older = self._setups_seen
        full = len(self.paths) >= self.limits.max_paths
        crowded = self._per_peer.get(peer, 0) >= self.limits.max_paths_per_peer
        if full or crowded or len(recent) >= self.limits.max_remembered_setups:
            return [Count("setup_over_quota"), self._refusal(peer, cell)]
        if key in self.paths or key in self._backward or key in self._exchanges:
            return [Count("setup_id_in_use")]
        try:
            onion = open_onion(cell.body, self.onion_secret, self.entropy(len(cell.body)))
        except CellError:
            return [Count("setup_malformed"), self._refusal(peer, cell)]
        if onion.ephemeral in recent or onion.ephemeral in older:
            return [Count("setup_replayed")]
        expires_s = onion.instructions.expires_s
        made_before_start = expires_s < int(self.started_s) + SETUP_VALID_S
        if made_before_start or not now_s <= expires_s <= now_s + 2 * SETUP_VALID_S:
            return [Count("setup_expired"), self._refusal(peer, cell)]
        following = None
        steps = onion.instructions
        if steps.next_node is not None:
            if not self.knows(steps.next_node):
                return [Count("setup_unknown_next"), self._refusal(peer, cell)]
            following = Link(
                Peer(True, steps.next_node),
                self.entropy(LINK_ID_BYTES),
                steps.next_forward_mask,
                steps.next_backward_mask,
            )
        recent.add(onion.ephemeral)
        previous = Link(peer, cell.link_id, onion.keys.forward_mask, onion.keys.backward_mask)
        path = RelayPath(
            onion.keys, steps.position, previous, following, now_s + self.limits.path_ttl_s
        )
        if following is None:
            path, sends = relay_path.establish(path, self.entropy)
        else:
            self._backward[(following.peer, backward_id(following.forward_id))] = key
            onward = Cell(following.forward_id, SETUP, self._noise(), onion.forward_onion)
            sends = [Send(following.peer, onward.encode())]
        self.paths[key] = path
        self._per_peer[peer] = self._per_peer.get(peer, 0) + 1
        return [Count("path_built"), *sends]

    def _from_target(self, name: PathKey, cell: Cell) -> list[Effect]:
        # A model node answers on the connection and under the id that we opened.
        found = self._exchanges.get(name)
        if found is None:
            return [Count("cell_unknown_exchange")]
        key, exchange = found

        def step(path: RelayPath, cell: Cell, entropy: Entropy) -> tuple[RelayPath, list[Send]]:
            return relay_path.from_target(path, exchange, cell, entropy)

        return self._step(key, step, cell)

    def _step(
        self,
        key: PathKey,
        rule: Callable[[RelayPath, Cell, Entropy], tuple[RelayPath, list[Send]]],
        cell: Cell,
    ) -> list[Effect]:
        if cell.command not in (DATA, EXCHANGE, EXCHANGE_END):
            return [Count("cell_unexpected")]
        try:
            path, sends = rule(self.paths[key], cell, self.entropy)
            unknown = next(
                (s for s in sends if s.peer.dialled and not self.knows(s.peer.name)), None
            )
            if unknown is not None:
                raise CellError("a cell for a node that the ledger does not list")
        except CellError:
            return [Count("cell_refused"), *self._close(key)]
        self._store(key, path)
        return [Count("cell_relayed"), *sends]

    def _store(self, key: PathKey, path: RelayPath) -> None:
        before = self.paths[key].exchanges
        if path.exchanges is not before:
            for name, exchange in before.items():
                if name not in path.exchanges:
                    del self._exchanges[(exchange.target, exchange.link_id)]
            for name, exchange in path.exchanges.items():
                self._exchanges[(exchange.target, exchange.link_id)] = (key, name)
        self.paths[key] = path

    def _close(self, key: PathKey) -> list[Effect]:
        path = self.paths[key]
        self._store(key, replace(path, exchanges={}))
        del self.paths[key]
        if path.following is not None:
            del self._backward[(path.following.peer, backward_id(path.following.forward_id))]
        self._per_peer[path.previous.peer] -= 1
        if not self._per_peer[path.previous.peer]:
            del self._per_peer[path.previous.peer]
        return [Count("path_closed"), *relay_path.close(path, self.entropy)]

    def _refusal(self, peer: Peer, cell: Cell) -> Send:
        body = self.entropy(len(cell.body))
        return Send(peer, Cell(backward_id(cell.link_id), CLOSE, self._noise(), body).encode())

    def _noise(self) -> int:
        return int.from_bytes(self.entropy(8), "big")
