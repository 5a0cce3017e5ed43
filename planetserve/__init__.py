"""PlanetServe: ask open LLMs on other people's machines without saying who you are.

from planetserve import Client

with Client() as client:
    print(client.ask("What is the capital of France?").text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planetserve.client import Answer, AsyncClient, Client
    from planetserve.ledger import LedgerClient

__version__ = "0.1.0"
__all__ = ["Answer", "AsyncClient", "Client", "LedgerClient", "__version__"]

_HOMES = {
    "Answer": "planetserve.client",
    "AsyncClient": "planetserve.client",
    "Client": "planetserve.client",
    "LedgerClient": "planetserve.ledger",
}


def __getattr__(name: str) -> Any:
    """The client sits above the overlay, which imports this package's kernel: load it late."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
