"""Relays of a made-up route set."""

from __future__ import annotations

from planetserve.keys import NodeId
from planetserve.records import NodeRecord


def relay(
    number: int, operator: str = "", host: str = "127.0.0.1", registered: int = 1
) -> NodeRecord:
    return NodeRecord(
        id=NodeId(number.to_bytes(20, "big")),
        key=number.to_bytes(32, "big"),
        name=f"relay-{number}",
        roles=("relay",),
        onion_key=bytes(32),
        transport_key=bytes(32),
        endpoints={"overlay": f"tcp://{host}:9000"},
        model="",
        operator=operator,
        registered=registered,
        credential_expires=1_000_000,
        reputation_ppm=None,
        status="trusted",
    )
