"""A relay as its operator sets it up, and what the ledger is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planetserve.keys import Identity
from planetserve.transactions import register


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """`bind` is the HOST:PORT to take links at, `public` where others reach it if that differs,
    `key` the relay's key file, which is made when there is none."""

    bind: str
    key: Path
    name: str = ""
    public: str = ""
    operator: str = ""


def announcement(identity: Identity, settings: RelaySettings) -> Mapping[str, Any]:
    """The registration of the relay (see `planetserve.registration.announce`). A relay without a
    name is shown by the beginning of its id."""
    return register(
        name=settings.name or f"relay-{identity.id.hex()[:8]}",
        roles=["relay"],
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        endpoints={"overlay": f"tcp://{settings.public or settings.bind}"},
        operator=settings.operator,
    )
