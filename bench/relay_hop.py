"""One hop of a measured chain: `python -m bench.relay_hop KIND FOLDER NUMBER NEXT
NEXT_PORT`, where NEXT is the number of the following relay, 0 for a model node.

`bare` is what pyzmq can do: take a message from a ROUTER, one AEAD, give it to a DEALER, over the
same transport security. `ours` is a `RelayNode`; who follows it, its cells say. Each prints its
port and runs until it is ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import zmq
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from zmq.utils import z85

from bench.overlay_node import FileLedger, identity_of
from overlay.core.relay import RelayLimits
from overlay.core.wire import FRAME_BYTES
from overlay.directory import Directory
from overlay.relay_node import RelayNode, collect_seldom
from overlay.replay_log import mark_new
from planetserve.keys import Identity

REFRESH_S = 0.1
UNLIMITED = RelayLimits(max_paths=32_768, max_paths_a_node=16_384, setups_per_s=1e6)
"""Thousands of paths are built at once, by one neighbour: quotas and puzzles are not measured,
and a table less than half full sets none."""


def server_options(socket: zmq.Socket[bytes], identity: Identity) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(identity.transport_secret))


def client_options(socket: zmq.Socket[bytes], server: Identity) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    public, secret = zmq.curve_keypair()
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(server.transport_public))


def bare(identity: Identity, following: Identity, next_port: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    server_options(router, identity)
    client_options(dealer, following)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.connect(f"tcp://127.0.0.1:{next_port}")
    print(port, flush=True)
    aead, count = ChaCha20Poly1305(bytes(32)), 0
    while True:
        frame = router.recv_multipart()[1]
        count += 1
        dealer.send(aead.encrypt(count.to_bytes(12, "big"), frame, None)[:FRAME_BYTES])


async def ours(identity: Identity, folder: Path, number: int) -> None:
    directory = Directory(FileLedger(folder), REFRESH_S)
    replay = folder / f"replay-{number}"
    mark_new(replay)
    node = RelayNode(identity, "127.0.0.1:0", directory, replay, UNLIMITED)
    print(node.start(), flush=True)
    directory.follow()
    collect_seldom()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await directory.close()
    await node.close()


if __name__ == "__main__":
    kind, home, hop, after = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if kind == "ours":
        asyncio.run(ours(identity_of("relay", hop), home, hop))
    else:
        to = identity_of("relay", after) if after else identity_of("model", 1)
        bare(identity_of("relay", hop), to, int(sys.argv[5]))
