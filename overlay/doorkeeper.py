"""Who is let in, and under which name: answers ZeroMQ's authentication requests (ZAP, RFC 27).

Everyone who proves some CURVE key is let in; what a key is worth is whether the ledger lists it.
The answer gives each connection a routing id of our choosing, in place of the one that the other
side may ask for: nobody can take the name of a neighbour that has just left. ZeroMQ takes it from
the answer's metadata, unless the answer is there before ZeroMQ has read the other side's; hence
the answer waits a little, and what was granted stands in the connection's User-Id as well, where
only an answer can put it, so that a name that was not granted is recognised.

On a busy machine ZeroMQ's thread may stand still for as long as the answer waits. Then a name that
the other side asked for is refused, but who asked for none has one that ZeroMQ made, which nobody
else can know and which is as good as ours.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import zmq

from overlay.channel import Channel
from overlay.core.connections import Granted
from overlay.core.effects import Entropy, Neighbour

DOMAIN = b"planetserve-overlay"
NAME_BYTES = 16
ANSWER_DELAY_S = 0.001
_ZMQ_NAME_BYTES = 5
"""A zero and a number that begins at random; other names do not begin with a zero."""

NodeOfKey: TypeAlias = Callable[[bytes], bytes | None]
"""The id of the node that has this transport key on the ledger, None if there is none."""


def no_node(key: bytes) -> bytes | None:
    return None


def stranger(address: str) -> Neighbour:
    """Whoever is at `address`: its /24, or /48 of IPv6; an address of this machine in full."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return Neighbour(False, b"")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return Neighbour(False, ip.packed, is_local=True)
    return Neighbour(False, ip.packed[: 3 if ip.version == 4 else 6])


class Doorkeeper:
    """Answers for all sockets of `context` between its making and `close`."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        node_of_key: NodeOfKey,
        entropy: Entropy,
    ) -> None:
        self._node_of_key = node_of_key
        self._entropy = entropy
        self._serial = 0
        self._answers: list[list[bytes]] = []
        self._timer: asyncio.TimerHandle | None = None
        # A ROUTER, so that one answer that waits does not keep others waiting.
        socket = context.socket(zmq.ROUTER)
        socket.bind("inproc://zeromq.zap.01")
        self._channel = Channel(socket, self._asked)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()

    def _asked(self, parts: list[bytes]) -> None:
        """ZeroMQ itself writes these, so their form is known."""
        asker, empty, version, request, _domain, address, _routing_id, mechanism, key = parts
        if mechanism != b"CURVE":
            raise ValueError("a socket without CURVE asks to be let in")
        granted = self._grant(address.decode("ascii", "replace"), key)
        self._answers.append(
            [
                *(asker, empty, version, request, b"200", b"OK"),
                encode_granted(granted),
                _property(b"Identity", granted.name),
            ]
        )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ANSWER_DELAY_S, self._answer)

    def _grant(self, address: str, key: bytes) -> Granted:
        self._serial += 1
        node = self._node_of_key(key)
        neighbour = stranger(address) if node is None else Neighbour(True, node)
        return Granted(self._serial, neighbour, self._entropy(NAME_BYTES))

    def _answer(self) -> None:
        self._timer = None
        answers, self._answers = self._answers, []
        for answer in answers:
            self._channel.send(answer)


def encode_granted(granted: Granted) -> bytes:
    """A User-Id. ZeroMQ hands it out as text that ends at a zero byte."""
    neighbour = granted.neighbour
    fields = (
        str(granted.serial),
        str(int(neighbour.is_node)),
        str(int(neighbour.is_local)),
        neighbour.name.hex(),
        granted.name.hex(),
    )
    return " ".join(fields).encode()


def decode_granted(text: str) -> Granted:
    serial, is_node, is_local, neighbour, name = text.split(" ")
    return Granted(
        int(serial),
        Neighbour(is_node == "1", bytes.fromhex(neighbour), is_local == "1"),
        bytes.fromhex(name),
    )


def as_named(granted: Granted, name: bytes) -> Granted:
    """What was granted, under the name that ZeroMQ made in place of the granted one, if `name` is
    one of those."""
    if len(name) == _ZMQ_NAME_BYTES and name[0] == 0:
        return replace(granted, name=name)
    return granted


def _property(name: bytes, value: bytes) -> bytes:
    """As ZMTP 3 writes metadata."""
    return b"".join((bytes((len(name),)), name, len(value).to_bytes(4, "big"), value))
