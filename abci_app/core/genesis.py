"""The state that a chain starts from, read from the genesis document's `app_state`.

{"params": {NAME: INTEGER, ...},
 "verifiers": [{"name", "prober_key", "onion_key", "transport_key", "consensus_key": HEX of
                32 bytes, "power": INTEGER}, ...],
 "models": [{"name", "weights_digest": HEX of 32 bytes, "quantization", "context_tokens",
             "deterministic"}, ...],
 "credentials": [{"key": HEX of 32 bytes, "role", "expires": HEIGHT}, ...]}

`models` and `credentials` may be left out. A credential of genesis admits a key that has yet to
register; for the role of a model node it takes the place of the admission probes.

An `app_state` with `records` is the exported state of a chain that goes on; see
`abci_app.core.export`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from abci_app.core import fields
from abci_app.core.chain import Chain, Epoch, GenesisError, save_chain
from abci_app.core.codes import Rejected
from abci_app.core.credentials import GENESIS_ENDORSER, Credential, put
from abci_app.core.export import imported_state
from abci_app.core.lifecycle import hold_keys
from abci_app.core.models import MODEL_FIELDS, Model, model_from_data, save_model
from abci_app.core.nodes import VERIFIER_ROLES, Node, save_node
from abci_app.core.routes import refresh_route
from abci_app.core.state import EMPTY, View
from abci_app.core.verifiers import (
    MAX_TOTAL_POWER,
    Verifier,
    is_usable_key,
    powers_of,
    save_verifier,
)
from planetserve.assignment import first_seed, sample_ppm
from planetserve.keys import node_id
from planetserve.scoring.parameters import InvalidParameters, parameters_from

FIRST_VERSION = 1
VERIFIER_KEYS = ("prober_key", "onion_key", "transport_key", "consensus_key")
VERIFIER_FIELDS = frozenset({"name", "power", *VERIFIER_KEYS})
CREDENTIAL_FIELDS = frozenset({"key", "role", "expires"})
REQUIRED, OPTIONAL = frozenset({"params", "verifiers"}), frozenset({"models", "credentials"})


def genesis(chain_id: str, app_state: bytes, initial_height: int = 1) -> dict[bytes, bytes | None]:
    """The writes that make the first state, before block `initial_height`. Raises
    `GenesisError`."""
    try:
        document = json.loads(app_state)
    except (ValueError, RecursionError):
        raise GenesisError("app_state is not JSON") from None
    if isinstance(document, dict) and "records" in document:
        return dict(imported_state(chain_id, document, initial_height))
    if not isinstance(document, dict) or not REQUIRED <= set(document) <= REQUIRED | OPTIONAL:
        raise GenesisError(
            "app_state holds params and verifiers, and perhaps models and credentials"
        )
    params = document["params"]
    if not isinstance(params, dict):
        raise GenesisError("params is an object")
    try:
        parameters = parameters_from(params)
    except InvalidParameters as error:
        raise GenesisError(str(error)) from None
    view = View(EMPTY)
    entries = _entries(document, "verifiers")
    if not entries:
        raise GenesisError("at least one verifier is needed")
    verifiers = _add_verifiers(view, entries)
    epoch = Epoch(
        number=0,
        start=initial_height,
        seed=first_seed(chain_id),
        sample_ppm=sample_ppm(parameters.probers_per_node, len(verifiers)),
        powers=powers_of(verifiers),
    )
    save_chain(view, Chain(chain_id, FIRST_VERSION, parameters, epoch))
    for entry in _entries(document, "models"):
        save_model(view, _model(entry))
    for entry in _entries(document, "credentials"):
        _add_credential(view, entry)
    return view.writes


def _entries(document: Mapping[str, Any], name: str) -> list[Any]:
    entries = document.get(name, [])
    if not isinstance(entries, list):
        raise GenesisError(f"{name} is a list")
    return entries


def _add_verifiers(view: View, entries: list[Any]) -> list[Verifier]:
    used: set[bytes] = set()
    verifiers = []
    for entry in entries:
        verifier, node = _verifier(entry)
        keys = {verifier.key, verifier.consensus_key, node.onion_key, node.transport_key}
        if used & keys:
            raise GenesisError(f"two verifiers share a key: {verifier.name}")
        used |= keys
        if not all(is_usable_key(key) for key in (verifier.key, verifier.consensus_key)):
            raise GenesisError(f"a signing key of {verifier.name} is no point of the main subgroup")
        verifiers.append(verifier)
        save_verifier(view, verifier)
        save_node(view, node)
        try:
            hold_keys(view, node, vouched_for=True)
        except Rejected as error:
            raise GenesisError(f"{verifier.name}: {error.log}") from None
        refresh_route(view, node.id, 0)
    if sum(verifier.power for verifier in verifiers) > MAX_TOTAL_POWER:
        raise GenesisError("the verifiers' power exceeds what CometBFT allows")
    return verifiers


def _model(entry: Any) -> Model:
    if not isinstance(entry, dict) or set(entry) != MODEL_FIELDS:
        raise GenesisError(f"a model holds exactly {', '.join(sorted(MODEL_FIELDS))}")
    digest = _hex(entry, "weights_digest", "a model's")
    try:
        return model_from_data(
            {**entry, "weights_digest": digest}, registered=0, by=GENESIS_ENDORSER
        )
    except Rejected as error:
        raise GenesisError(f"a model's {error.log}") from None


def _add_credential(view: View, entry: Any) -> None:
    if not isinstance(entry, dict) or set(entry) != CREDENTIAL_FIELDS:
        raise GenesisError(f"a credential holds exactly {', '.join(sorted(CREDENTIAL_FIELDS))}")
    key = _hex(entry, "key", "a credential's")
    try:
        role = fields.role(entry)
        expires = fields.integer(entry, "expires", 1)
    except Rejected as error:
        raise GenesisError(f"a credential's {error.log}") from None
    put(view, node_id(key), role, GENESIS_ENDORSER, Credential(0, expires))


def _hex(entry: Mapping[str, Any], name: str, whose: str) -> bytes:
    try:
        value = bytes.fromhex(entry[name])
    except (ValueError, TypeError):
        raise GenesisError(f"{whose} {name} is hex") from None
    if len(value) != 32:
        raise GenesisError(f"{whose} {name} is 32 bytes")
    return value


def _verifier(entry: Any) -> tuple[Verifier, Node]:
    if not isinstance(entry, dict) or set(entry) != VERIFIER_FIELDS:
        raise GenesisError(f"a verifier holds exactly {', '.join(sorted(VERIFIER_FIELDS))}")
    keys = {name: _hex(entry, name, "a verifier's") for name in VERIFIER_KEYS}
    try:
        name = fields.text(entry, "name", 1, fields.MAX_NAME_CHARACTERS)
        power = fields.integer(entry, "power", 1, MAX_TOTAL_POWER)
    except Rejected as error:
        raise GenesisError(f"a verifier's {error.log}") from None
    verifier = Verifier(keys["prober_key"], name, keys["consensus_key"], power, power)
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
    )
    return verifier, node
