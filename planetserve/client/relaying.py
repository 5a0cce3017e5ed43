"""A client that relays for others over the links that it asks by."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from overlay.core.diversity import seasoned
from overlay.core.guards import GuardRules
from overlay.directory import Directory
from overlay.relay_node import RelayNode
from overlay.relaying import RelaySettings, announcement
from overlay.replay_log import folder_beside, node_identity
from planetserve.errors import TransactionRejected
from planetserve.keylock import locked_key
from planetserve.keys import Identity
from planetserve.ledger import LedgerClient
from planetserve.light.trust import TRUST_FOLDER
from planetserve.logs import get_logger
from planetserve.records import RouteSet
from planetserve.registration import announce

KEY_FILE = "relay.key"

log = get_logger()


def key_beside(network_file: Path) -> Path:
    """The relay's key file, where the client's first hops are, if none is named."""
    return network_file.parent / TRUST_FOLDER / KEY_FILE


def exposed(node: bytes, routes: RouteSet, rules: GuardRules | None = None) -> str:
    """Why first hops can tell the questions of the relay `node` from what it passes on, for its
    user to read; empty when others may choose it for their first hop."""
    rules = rules or GuardRules()
    relays = routes.relays()
    own = next((relay for relay in relays if relay.id == node), None)
    if own is None:
        why = "no verifier has endorsed this relay yet, and nobody's paths lead through it"
    elif own not in seasoned(relays, routes.height, rules.min_age_blocks, rules.most):
        left = own.registered + rules.min_age_blocks - routes.height
        why = f"this relay is too young to be others' first hop, for {left:,} blocks more"
    else:
        return ""
    return f"{why}; until then first hops can tell that your questions are your own"


class ClientRelay:
    """The relay of a client between `start` and `close`."""

    def __init__(self, settings: RelaySettings, ledger: LedgerClient, directory: Directory) -> None:
        self._settings = settings
        self._ledger = ledger
        self._directory = directory
        self._stack = ExitStack()
        self._announcing: asyncio.Task[None] | None = None
        self._node: RelayNode | None = None

    @property
    def exposed(self) -> str:
        """See `exposed`; empty while it does not run."""
        routes = self._directory.current
        return "" if self._node is None or routes is None else exposed(self._node.id, routes)

    def start(self) -> RelayNode:
        """Take links, and tell the ledger. Raises `KeyFileError`, `KeyInUseError`, and
        `ConfigurationError` when the address cannot be bound."""
        key = self._settings.key
        identity = node_identity(key)
        self._stack.enter_context(locked_key(key))
        node = RelayNode(identity, self._settings.bind, self._directory, folder_beside(key))
        node.start()
        self._node = node
        self._announcing = asyncio.create_task(self._announce(identity))
        return node

    async def close(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
            await asyncio.gather(self._announcing, return_exceptions=True)
        if self._node is not None:
            await self._node.close()
        self._stack.close()

    async def _announce(self, identity: Identity) -> None:
        """A client whose registration is refused asks all the same."""
        try:
            await announce(self._ledger, identity, announcement(identity, self._settings))
        except TransactionRejected as error:
            log.warning("relay_not_registered", reason=str(error))
