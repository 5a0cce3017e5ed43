"""The state that a chain starts from, read from the genesis document's `app_state`.

{"params": {NAME: INTEGER, ...},
 "verifiers": [{"name", "prober_key", "onion_key", "transport_key", "consensus_key": HEX of
                32 bytes, "power": INTEGER}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Rejected
from abci_app.core.nodes import VERIFIER_ROLES, Node, save_node
from abci_app.core.parameters import GenesisError, parameters_from
from abci_app.core.state import CHAIN_KEY, EMPTY, View
from abci_app.core.verifiers import Verifier, save_verifier

VERIFIER_KEYS = ("prober_key", "onion_key", "transport_key", "consensus_key")
VERIFIER_FIELDS = frozenset({"name", "power", *VERIFIER_KEYS})
MAX_TOTAL_POWER = ((1 << 63) - 1) // 8
"""CometBFT's own limit."""


def genesis(chain_id: str, app_state: bytes) -> dict[bytes, bytes | None]:
    """The writes that make the first state. Raises `GenesisError`."""
    try:
        document = json.loads(app_state)
    except (ValueError, RecursionError):
        raise GenesisError("app_state is not JSON") from None
    if not isinstance(document, dict) or set(document) != {"params", "verifiers"}:
        raise GenesisError("app_state holds exactly params and verifiers")
    params, entries = document["params"], document["verifiers"]
    if not isinstance(params, dict) or not isinstance(entries, list) or not entries:
        raise GenesisError("params is an object and verifiers a list that is not empty")
    parameters = parameters_from(params)
    view = View(EMPTY)
    view.save(CHAIN_KEY, {"chain_id": chain_id, "params": parameters.to_wire()})
    used: set[bytes] = set()
    total_power = 0
    for entry in entries:
        verifier, node = _verifier(entry)
        if verifier.key in used or verifier.consensus_key in used:
            raise GenesisError(f"two verifiers share a key: {verifier.name}")
        used |= {verifier.key, verifier.consensus_key}
        total_power += verifier.power
        save_verifier(view, verifier)
        save_node(view, node)
    if total_power > MAX_TOTAL_POWER:
        raise GenesisError("the verifiers' power exceeds what CometBFT allows")
    return view.writes


def _verifier(entry: Any) -> tuple[Verifier, Node]:
    if not isinstance(entry, dict) or set(entry) != VERIFIER_FIELDS:
        raise GenesisError(f"a verifier holds exactly {', '.join(sorted(VERIFIER_FIELDS))}")
    keys = _keys(entry)
    try:
        name = fields.text(entry, "name", 1, fields.MAX_NAME_CHARACTERS)
        power = fields.integer(entry, "power", 1, MAX_TOTAL_POWER)
    except Rejected as error:
        raise GenesisError(f"a verifier's {error.log}") from None
    verifier = Verifier(keys["prober_key"], name, keys["consensus_key"], power)
    node = Node(
        key=verifier.key,
        name=name,
        roles=VERIFIER_ROLES,
        onion_key=keys["onion_key"],
        transport_key=keys["transport_key"],
        endpoints={},
        model="",
        operator="",
        registered=0,
        candidate=False,
    )
    return verifier, node


def _keys(entry: Mapping[str, Any]) -> dict[str, bytes]:
    try:
        keys = {name: bytes.fromhex(entry[name]) for name in VERIFIER_KEYS}
    except (ValueError, TypeError):
        raise GenesisError("a verifier's keys are hex") from None
    if any(len(key) != 32 for key in keys.values()):
        raise GenesisError("a verifier's keys are 32 bytes each")
    return keys
