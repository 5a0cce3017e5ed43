"""Links to peers over ZeroMQ with CURVE: one ROUTER for those who dial us, one DEALER for each
node that we dial, whose transport key the ledger gives.

A broken connection is not mended here: it is reported once, and the next frame dials anew. What
was under way on it is for the state machines to give up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import zmq
import zmq.utils.monitor
from nacl.bindings import crypto_scalarmult_base
from zmq.utils import z85

from overlay.channel import Channel
from overlay.core.effects import Neighbour, Peer
from overlay.core.wire import FRAME_BYTES
from planetserve.errors import ConfigurationError
from planetserve.keys import Identity

HIGH_WATER_FRAMES = 2000
"""A peer that lets 4 MB of cells pile up is treated as gone."""
HANDSHAKE_TIMEOUT_MS = 3000
HEARTBEAT_MS = 2000

_GONE = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens, as ZeroMQ writes it, and its 32-byte CURVE public key."""

    endpoint: str
    transport_key: bytes


Resolve = Callable[[bytes], Address | None]
"""The address of a node id, None when the ledger lists none."""


class Links:
    """All connections of one process. `frame_arrived` and `peer_gone` are called on the loop."""

    def __init__(
        self,
        resolve: Resolve,
        frame_arrived: Callable[[Peer, bytes], None],
        peer_gone: Callable[[Peer], None],
    ) -> None:
        self._resolve = resolve
        self._frame_arrived = frame_arrived
        self._peer_gone = peer_gone
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router: Channel | None = None
        self._dealers: dict[Peer, tuple[Channel, Channel]] = {}

    def bind(self, host_port: str, identity: Identity) -> int:
        """Accept whoever speaks CURVE to our transport key; port 0 takes a free one. Returns the
        port. Raises `ConfigurationError`."""
        socket = self._socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(identity.transport_secret))
        try:
            socket.bind(f"tcp://{host_port}")
        except zmq.ZMQError as error:
            socket.close()
            raise ConfigurationError(f"cannot listen on {host_port}: {error}") from error
        self._router = Channel(socket, self._from_router)
        endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return int(endpoint.rstrip(b"\0").rpartition(b":")[2])

    def send(self, peer: Peer, frame: bytes) -> bool:
        """Queue `frame` for `peer`, dialling it when needed; False when that cannot be."""
        if not peer.dialled:
            return self._router is not None and self._router.send([peer.name, frame])
        channels = self._dealers.get(peer) or self._dial(peer)
        return channels is not None and channels[0].send([frame])

    def purge(self, peer: Peer, link_id: bytes) -> None:
        """Drop what waits for `peer` under `link_id`; frames wait in ZeroMQ, so nothing does."""

    def neighbour(self, peer: Peer) -> Neighbour:
        """Connections are not told apart by who is behind them."""
        return Neighbour(False, peer.name, is_local=True)

    def hang_up(self, peer: Peer) -> None:
        """Close the connection to a dialled peer, if there is one, without a report."""
        channels = self._dealers.pop(peer, None)
        if channels is not None:
            dealer, monitor = channels
            dealer.socket.disable_monitor()
            monitor.close()
            dealer.close()

    def close(self) -> None:
        for peer in list(self._dealers):
            self.hang_up(peer)
        if self._router is not None:
            self._router.close()
        self._context.term()

    def _dial(self, peer: Peer) -> tuple[Channel, Channel] | None:
        address = self._resolve(peer.name)
        if address is None:
            return None
        socket = self._socket(zmq.DEALER)
        # A fresh key each time: links of one process must not be linkable by it.
        secret = os.urandom(32)
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(secret))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(crypto_scalarmult_base(secret)))
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(address.transport_key))
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        events = socket.get_monitor_socket(_GONE)
        dealer = Channel(socket, lambda frames: self._from_dealer(peer, frames))
        monitor = Channel(events, lambda frames: self._broken(peer, dealer))
        self._dealers[peer] = (dealer, monitor)
        try:
            socket.connect(address.endpoint)
        except zmq.ZMQError:  # the node announced an address that is none
            self.hang_up(peer)
            return None
        return dealer, monitor

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, HIGH_WATER_FRAMES),
            (zmq.RCVHWM, HIGH_WATER_FRAMES),
            (zmq.MAXMSGSIZE, 2 * FRAME_BYTES),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, 2 * HEARTBEAT_MS),
            (zmq.TCP_KEEPALIVE, 1),
        ):
            socket.setsockopt(option, value)
        return socket

    def _from_router(self, frames: list[bytes]) -> None:
        # More parts than one are no cell; an empty frame is counted as malformed by the receiver.
        frame = frames[1] if len(frames) == 2 else b""
        self._frame_arrived(Peer(False, frames[0]), frame)

    def _from_dealer(self, peer: Peer, frames: list[bytes]) -> None:
        self._frame_arrived(peer, frames[0] if len(frames) == 1 else b"")

    def _broken(self, peer: Peer, dealer: Channel) -> None:
        current = self._dealers.get(peer)
        if current is not None and current[0] is dealer:
            self.hang_up(peer)
            self._peer_gone(peer)
