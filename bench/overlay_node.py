"""One node of a network whose route set is a file: `python -m bench.overlay_node FOLDER KIND N`.

The node makes its record in FOLDER/records and follows FOLDER/routes, which `OverlayNetwork` in
`bench.overlay_network` writes. No ledger runs, so that only the overlay is measured.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from overlay.directory import Directory
from overlay.relay_node import RelayNode
from overlay.replay_log import mark_new
from overlay.server import IncomingRequest, OverlayServer
from planetserve.encoding import decode, encode
from planetserve.keys import Identity, identity_from
from planetserve.merkle import EMPTY_HASH, root_of
from planetserve.records import NodeRecord, RouteSet, route_set
from planetserve.statekeys import route_key

REFRESH_S = 0.2
MODEL = "echo"


class FileLedger:
    """Reads the route set from a file, in place of a `LedgerClient`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "routes"

    async def routes(self) -> RouteSet:
        if not self._file.exists():
            return route_set(0, EMPTY_HASH, [])
        records = [NodeRecord.from_wire(item) for item in decode(self._file.read_bytes())]
        stored = [(route_key(record.id), encode(record.to_wire())) for record in records]
        return route_set(len(records), root_of(stored), [record.to_wire() for record in records])


def identity_of(kind: str, number: int) -> Identity:
    return identity_from(f"{kind}{number}".encode().ljust(96, b"."))


def record_of(
    identity: Identity, name: str, role: str, port: int, model: str = MODEL
) -> NodeRecord:
    """A record of a node on loopback; `model` is for role "model" only."""
    return NodeRecord(
        id=identity.id,
        key=identity.public_key,
        name=name,
        roles=(role,),
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        endpoints={"overlay": f"tcp://127.0.0.1:{port}"},
        model=model if role == "model" else "",
        operator="",
        registered=1,
        credential_expires=1_000_000,
        reputation_ppm=500_000 if role == "model" else None,
        status="trusted",
    )


async def echo(request: IncomingRequest) -> None:
    """Accepted, first token, the rest."""
    await request.write(request.payload[:1])
    await request.write(request.payload[1:2])
    await request.write(request.payload[2:])
    await request.finish()


async def serve(folder: Path, kind: str, number: int, port: int) -> None:
    identity = identity_of(kind, number)
    ledger = FileLedger(folder)
    directory = Directory(ledger, REFRESH_S)
    node: RelayNode | OverlayServer
    if kind == "relay":
        replay = folder / f"replay-{number}"
        mark_new(replay)
        node = RelayNode(identity, f"127.0.0.1:{port}", directory, replay)
        port = node.start()
    else:
        node = OverlayServer(
            identity,
            f"127.0.0.1:{port}",
            echo,
            folder / f"replay-{kind}-{number}",
            node_of_key=directory.node_of_transport_key,
        )
        port = await node.start()
    directory.follow()
    record = record_of(identity, f"{kind}-{number}", kind, port)
    path = folder / "records" / record.name
    path.with_suffix(".new").write_bytes(encode(record.to_wire()))
    path.with_suffix(".new").rename(path)
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    await stop.wait()
    await directory.close()
    await node.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
