"""ZeroMQ sockets between the model nodes of a group: CURVE, only for keys on the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85

from modelnode.group_messages import MAX_MESSAGE_BYTES
from planetserve.keys import Identity

DOMAIN = "planetserve-group"
HIGH_WATER_MESSAGES = 8192
"""More than a peer's windows hold together, so that only a broken peer reaches it."""
HANDSHAKE_TIMEOUT_MS = 3000
HEARTBEAT_INTERVAL_MS = 500
HEARTBEAT_TIMEOUT_MS = 1500


def configure(socket: zmq.Socket[Any], identity: Identity) -> None:
    """Options of every group socket; `identity`'s transport key is its CURVE key."""
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, HIGH_WATER_MESSAGES),
        (zmq.RCVHWM, HIGH_WATER_MESSAGES),
        (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS),
        (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
    ):
        socket.setsockopt(option, value)
    socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(identity.transport_secret))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(identity.transport_public))


class Doorkeeper:
    """Answers ZeroMQ's authentication requests (ZAP, RFC 27) of one context: a CURVE key passes
    when `admits` says so. The key then stands in each message's User-Id."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], admits: Callable[[bytes], bool]
    ) -> None:
        self._admits = admits
        self._authenticator = AsyncioAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(DOMAIN, self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Called by pyzmq with the key in Z85."""
        return self._admits(z85.decode(key))

    def close(self) -> None:
        self._authenticator.stop()
