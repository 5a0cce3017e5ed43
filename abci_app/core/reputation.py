"""The reputations that the state holds; `planetserve.scoring.reputation` has their rules."""

from __future__ import annotations

from abci_app.core.state import Reader, View, load
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation, convicted, reputation_from
from planetserve.statekeys import reputation_key


def load_reputation(reader: Reader, node: bytes) -> Reputation | None:
    record = load(reader, reputation_key(node))
    return None if record is None else reputation_from(record)


def save_reputation(view: View, node: bytes, reputation: Reputation) -> None:
    view.save_ordered(reputation_key(node), reputation.to_wire())


def convict(view: View, node: bytes, parameters: Parameters) -> None:
    """Evidence has shown a node's misconduct; nothing happens to one that nobody scores."""
    reputation = load_reputation(view, node)
    if reputation is not None:
        save_reputation(view, node, convicted(reputation, parameters))
