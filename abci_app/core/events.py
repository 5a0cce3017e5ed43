"""Events: what explorers and CometBFT's index learn of each change. Attributes are text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abci_app.core.governance import Outcome
from abci_app.core.settlement import Settlement
from abci_app.core.verifiers import Verifier
from planetserve.keys import node_id
from planetserve.transactions import Transaction

SUBJECTS = ("accused", "epoch", "name", "node", "proposal", "role")
"""Fields of a transaction's data by which people search."""


@dataclass(frozen=True, slots=True)
class Event:
    """A type and attributes in a fixed order."""

    kind: str
    attributes: tuple[tuple[str, str], ...]


def transaction(done: Transaction) -> Event:
    """A transaction took effect."""
    attributes = [("kind", done.kind), ("sender", node_id(done.key).hex())]
    attributes += [(name, _text(done.data[name])) for name in SUBJECTS if name in done.data]
    return Event("ledger", tuple(attributes))


def forgotten(node: bytes) -> Event:
    """Nobody endorsed a node in time, or before another announced its keys, or it retired long
    ago."""
    return Event("forgotten", (("node", node.hex()),))


def status(node: bytes, word: str) -> Event:
    """A node's status changed through a credential, its announcement, evidence or a vote."""
    return Event("status", (("node", node.hex()), ("status", word)))


def misbehavior(verifier: Verifier) -> Event:
    """A validator signed two things at once."""
    return Event("misbehavior", (("verifier", verifier.id.hex()),))


def outcome(item: Outcome) -> Event:
    """A proposal was decided."""
    return Event("proposal", (("proposal", str(item.number)), ("outcome", item.outcome)))


def rotation(old: bytes, new: bytes) -> Event:
    return Event("rotation", (("node", old.hex()), ("successor", new.hex())))


def power(consensus_key: bytes, amount: int) -> Event:
    """A validator's power changed; 0 when it leaves."""
    return Event("power", (("consensus_key", consensus_key.hex()), ("power", str(amount))))


def upgrade(version: int) -> Event:
    return Event("upgrade", (("version", str(version)),))


def settlement(done: Settlement) -> list[Event]:
    """One event a scored node, and one for each verifier whose trust or power changed."""
    found = [
        Event(
            "settlement",
            (
                ("node", result.node.hex()),
                ("epoch", str(result.epoch)),
                ("reputation_ppm", str(result.after.ppm)),
                ("status", result.after.status),
                ("verdict", result.judgement.update.verdict),
            ),
        )
        for result in done.results
    ]
    found += [
        Event(
            "conduct",
            (
                ("verifier", verifier.id.hex()),
                ("epoch", str(done.epoch)),
                ("trust_ppm", str(verifier.trust_ppm)),
                ("power", str(verifier.power)),
            ),
        )
        for verifier in done.changed
    ]
    return found


def parameters(changed: Mapping[str, int]) -> Event:
    """Voted parameters took effect."""
    return Event("parameters", tuple(sorted((name, str(v)) for name, v in changed.items())))


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
