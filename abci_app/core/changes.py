"""What verifiers can change by a vote, when a change is possible, and how it is made.

    {"kind": "parameter", "name": TEXT, "value": INTEGER}
    {"kind": "join", "key", "consensus_key", "onion_key", "transport_key": 32 bytes each,
     "name": TEXT, "power": INTEGER}
    {"kind": "leave", "verifier": 20-byte id}
    {"kind": "power", "verifier": 20-byte id, "power": INTEGER}
    {"kind": "upgrade", "version": INTEGER, "height": INTEGER}
    {"kind": "cancel", "version": INTEGER}
    {"kind": "expel", "node": 20-byte id}
    {"kind": "model", "name", "weights_digest", "quantization", "context_tokens", "deterministic"}

A parameter waits in `chain/pending` for the next epoch, an upgrade in `chain/upgrade` for its
height, until a vote cancels it; the verifiers' set changes with the block, CometBFT follows two
blocks later, and scores weigh by it from the next epoch on. Who is expelled loses all credentials,
whoever gave them, and may be endorsed again. Only a vote registers a model as deterministic, for
nodes can be convicted over it. Rules
must not look at what this program can do, only at the state: validators run different releases.

How far one change may move power:

- No set of verifiers with more than 2/3 of the power after it may have held 1/3 or less before.
  This is what CometBFT's light clients rely on to skip from one header to a later one. For a
  verifier whose power goes from a to b beside others who hold O it comes to b <= 2a + O and
  a <= 2b + O: at most half of all power leaves at once. Larger changes go in steps.
- Who joins or gains ends with less than 1/3, so that it cannot stop the chain alone, or with no
  more than the average of the others, so that a network of one or two can grow at all. The first
  bound on b follows from this.
- Votes change the set once a block (`abci_app.core.governance`), so that they do not add up.
  Validators that signed two blocks are the exception: they leave with the next block, all of
  them and beside a vote (`abci_app.core.misbehavior`). A light client to which a set has changed
  too much takes every header in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from abci_app.core import credentials, fields, lifecycle, models
from abci_app.core.chain import load_chain
from abci_app.core.codes import Code, Rejected
from abci_app.core.nodes import VERIFIER_ROLES, Node, load_node, save_node
from abci_app.core.state import Reader, View, load
from abci_app.core.upgrades import Scheduled, cancel, schedule, scheduled
from abci_app.core.verifiers import (
    MAX_TOTAL_POWER,
    REST_EPOCHS,
    Verifier,
    all_verifiers,
    delete_verifier,
    is_usable_key,
    load_verifier,
    save_verifier,
)
from planetserve.keys import NODE_ID_BYTES, node_id
from planetserve.scoring.parameters import (
    LIMITS,
    InvalidParameters,
    Parameters,
    parameters_from,
)
from planetserve.statekeys import PENDING_KEY, SUCCESSION, holder_key

PARAMETER, JOIN, LEAVE, POWER = "parameter", "join", "leave", "power"
UPGRADE, CANCEL, EXPEL, MODEL = "upgrade", "cancel", "expel", "model"
MOVES_POWER = frozenset({JOIN, LEAVE, POWER})

JOIN_KEYS = ("key", "consensus_key", "onion_key", "transport_key")
FIELDS: Mapping[str, frozenset[str]] = {
    PARAMETER: frozenset({"kind", "name", "value"}),
    JOIN: frozenset({"kind", "name", "power", *JOIN_KEYS}),
    LEAVE: frozenset({"kind", "verifier"}),
    POWER: frozenset({"kind", "verifier", "power"}),
    UPGRADE: frozenset({"kind", "version", "height"}),
    CANCEL: frozenset({"kind", "version"}),
    EXPEL: frozenset({"kind", "node"}),
    MODEL: frozenset({"kind", *models.MODEL_FIELDS}),
}

MAX_VERIFIERS = 256
"""Every block carries a signature of each, and light clients check them."""
MAX_UPGRADE_NOTICE_BLOCKS = 10_000_000

Change = Mapping[str, Any]


def check_form(change: Any) -> Change:
    """Whether `change` has one of the forms above. Raises `Rejected` with `BAD_CHANGE` for an
    unknown kind and `INVALID_FIELD` for a field at fault."""
    kind = change.get("kind") if type(change) is dict else None
    if type(kind) is not str or kind not in FIELDS:
        raise Rejected(Code.BAD_CHANGE, f"kind is one of {', '.join(sorted(FIELDS))}")
    fields.exact(change, FIELDS[kind])
    if kind == PARAMETER:
        fields.text(change, "name", 1, fields.MAX_NAME_CHARACTERS)
        fields.integer(change, "value")
    elif kind == JOIN:
        fields.text(change, "name", 1, fields.MAX_NAME_CHARACTERS)
        for name in JOIN_KEYS:
            fields.octets(change, name, 32)
    elif kind == MODEL:
        _model(change, 0)
    elif kind == EXPEL:
        fields.node(change)
    if kind in (UPGRADE, CANCEL):
        fields.integer(change, "version", 1)
    if kind == UPGRADE:
        fields.integer(change, "height", 1)
    if kind in (LEAVE, POWER):
        fields.octets(change, "verifier", NODE_ID_BYTES)
    if kind in (JOIN, POWER):
        fields.integer(change, "power", 1, MAX_TOTAL_POWER)
    return dict(change)


def check_possible(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    """Whether the state allows a change that would be made at a height after `after`. Raises
    `Rejected` with `BAD_CHANGE`."""
    _CHECKS[change["kind"]](reader, parameters, change, after)


def make_change(view: View, parameters: Parameters, change: Change, height: int) -> None:
    """Check once more, for much may have happened since the proposal, and make the change with
    block `height`. Raises `Rejected`, after which `view` must be discarded."""
    check_possible(view, parameters, change, height)
    _EFFECTS[change["kind"]](view, parameters, change, height)


def check_power(others: Sequence[int], before: int, after: int) -> None:
    """Whether one verifier's power may go from `before` (0: it joins) to `after` (0: it leaves)
    beside `others`. Raises `Rejected` with `BAD_CHANGE`; the reasons are above."""
    rest = sum(others)
    total = rest + after
    if total < 1:
        raise Rejected(Code.BAD_CHANGE, "somebody must hold power")
    if after > before and others and 3 * after >= total and after * len(others) > rest:
        raise Rejected(
            Code.BAD_CHANGE, "who gains power must stay below a third or the average of the others"
        )
    if before > 2 * after + rest:
        raise Rejected(Code.BAD_CHANGE, "so much power leaves in several steps only")


def check_total(others: Sequence[Verifier], after: int) -> None:
    """Whether `after` fits beside `others`. What was taken from a prober may come back
    (`abci_app.core.penalties`) and must fit then. Raises `Rejected` with `BAD_CHANGE`."""
    total = sum(max(other.power, other.voted_power) for other in others) + after
    if total > MAX_TOTAL_POWER:
        raise Rejected(Code.BAD_CHANGE, f"all power together is {MAX_TOTAL_POWER} at most")


def find_verifier(reader: Reader, identifier: bytes) -> Verifier | None:
    """The verifier with this id, or that had it before it rotated its key."""
    for verifier in all_verifiers(reader):
        if identifier == verifier.id or identifier in verifier.former:
            return verifier
    return None


def _check_parameter(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    name, value = change["name"], change["value"]
    if name not in LIMITS:
        raise Rejected(Code.BAD_CHANGE, "no parameter has this name")
    pending = load(reader, PENDING_KEY) or {}
    try:
        parameters_from({**parameters.to_wire(), **pending, name: value})
    except InvalidParameters:
        low, high = LIMITS[name]
        raise Rejected(
            Code.BAD_CHANGE, f"{name} is from {low} to {high} and must agree with the others"
        ) from None


def _make_parameter(view: View, parameters: Parameters, change: Change, height: int) -> None:
    pending = load(view, PENDING_KEY) or {}
    view.save(PENDING_KEY, {**pending, change["name"]: change["value"]})


def _check_join(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    verifiers = all_verifiers(reader)
    joiner = node_id(change["key"])
    if len(verifiers) >= MAX_VERIFIERS:
        raise Rejected(Code.BAD_CHANGE, f"{MAX_VERIFIERS} verifiers are allowed")
    if any(joiner == verifier.id or joiner in verifier.former for verifier in verifiers):
        raise Rejected(Code.BAD_CHANGE, "the key is or was a verifier's")
    if any(change["consensus_key"] == verifier.consensus_key for verifier in verifiers):
        raise Rejected(Code.BAD_CHANGE, "another verifier has this consensus key")
    if reader.get(holder_key(SUCCESSION, joiner)) is not None:
        raise Rejected(Code.BAD_CHANGE, "a node has gone on, or will go on, from or as this key")
    if not (is_usable_key(change["key"]) and is_usable_key(change["consensus_key"])):
        raise Rejected(Code.BAD_CHANGE, "a signing key is not a point of the main subgroup")
    try:
        lifecycle.hold_keys(View(reader), _announced(change, after), vouched_for=True)
    except Rejected as refusal:
        raise Rejected(Code.BAD_CHANGE, refusal.log) from None
    check_power([verifier.power for verifier in verifiers], 0, change["power"])
    check_total(verifiers, change["power"])


def _make_join(view: View, parameters: Parameters, change: Change, height: int) -> None:
    """A node of the same key keeps its history and what else it does. The prober rests at first:
    its key may have been chosen for what it draws."""
    power = change["power"]
    rested = load_chain(view).epoch.number + REST_EPOCHS
    save_verifier(
        view,
        Verifier(
            change["key"], change["name"], change["consensus_key"], power, power, benched=rested
        ),
    )
    node = _announced(change, height)
    known = load_node(view, node.id)
    if known is not None:
        lifecycle.release_keys(view, known)
        known = lifecycle.end_waiting(view, known)
        kept = known if not known.retired else replace(known, roles=(), model="", endpoints={})
        node = replace(
            kept,
            roles=tuple(sorted({*kept.roles, *VERIFIER_ROLES})),
            onion_key=node.onion_key,
            transport_key=node.transport_key,
            retired=0,
        )
    lifecycle.hold_keys(view, node, vouched_for=True)
    save_node(view, node)


def _announced(change: Change, height: int) -> Node:
    return Node(
        key=change["key"],
        name=change["name"],
        roles=VERIFIER_ROLES,
        onion_key=change["onion_key"],
        transport_key=change["transport_key"],
        endpoints={},
        model="",
        operator="",
        registered=height,
    )


def _check_power_of(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    """Of a verifier that leaves or whose power changes."""
    verifier = _require(reader, change)
    others = [other for other in all_verifiers(reader) if other.id != verifier.id]
    after = change.get("power", 0)
    check_power([other.power for other in others], verifier.power, after)
    check_total(others, after)


def _make_leave(view: View, parameters: Parameters, change: Change, height: int) -> None:
    """The node goes on with what else it does and is endorsed for, or retires."""
    remove(view, parameters, _require(view, change), height)


def remove(view: View, parameters: Parameters, verifier: Verifier, height: int) -> None:
    """Take a verifier out of the set."""
    delete_verifier(view, verifier.id)
    node = load_node(view, verifier.id)
    if node is None:
        return
    roles = tuple(role for role in node.roles if role not in VERIFIER_ROLES)
    if roles:
        save_node(view, replace(node, roles=roles))
        credentials.lapse(view, node.id, height, parameters.candidate_blocks)
        return
    credentials.drop_all(view, node.id)
    lifecycle.retire(view, node, height, parameters.candidate_blocks)


def _make_power(view: View, parameters: Parameters, change: Change, height: int) -> None:
    power = change["power"]
    save_verifier(view, replace(_require(view, change), power=power, voted_power=power))


def _require(reader: Reader, change: Change) -> Verifier:
    verifier = find_verifier(reader, change["verifier"])
    if verifier is None:
        raise Rejected(Code.BAD_CHANGE, "no verifier has this id")
    return verifier


def _check_upgrade(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    version, height = change["version"], change["height"]
    following = load_chain(reader).version + 1
    if version != following:
        raise Rejected(Code.BAD_CHANGE, f"version {following} is next")
    if not after < height <= after + MAX_UPGRADE_NOTICE_BLOCKS:
        last = after + MAX_UPGRADE_NOTICE_BLOCKS
        raise Rejected(Code.BAD_CHANGE, f"an upgrade is for a height from {after + 1} to {last}")


def _make_upgrade(view: View, parameters: Parameters, change: Change, height: int) -> None:
    schedule(view, Scheduled(change["version"], change["height"]))


def _check_cancel(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    coming = scheduled(reader)
    if coming is None or coming.version != change["version"]:
        raise Rejected(Code.BAD_CHANGE, "no upgrade to this version is scheduled")


def _make_cancel(view: View, parameters: Parameters, change: Change, height: int) -> None:
    cancel(view)


def _check_expel(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    node = _expelled(reader, change)
    if load_verifier(reader, node) is not None:
        raise Rejected(Code.BAD_CHANGE, "a verifier leaves by a vote of its own kind")
    if not lifecycle.is_endorsed(reader, node):
        raise Rejected(Code.BAD_CHANGE, "nobody endorses the node")


def _make_expel(view: View, parameters: Parameters, change: Change, height: int) -> None:
    node = _expelled(view, change)
    credentials.drop_all(view, node)
    credentials.lapse(view, node, height, parameters.candidate_blocks)


def _expelled(reader: Reader, change: Change) -> bytes:
    """The present id of the node: nobody escapes by a rotation."""
    node: bytes = change["node"]
    if load_node(reader, node) is not None:
        return node
    return bytes(load(reader, holder_key(SUCCESSION, node)) or node)


def _check_model(reader: Reader, parameters: Parameters, change: Change, after: int) -> None:
    if models.load_model(reader, change["name"]) is not None:
        raise Rejected(Code.BAD_CHANGE, "a model of this name is registered")


def _make_model(view: View, parameters: Parameters, change: Change, height: int) -> None:
    models.save_model(view, _model(change, height))


def _model(change: Change, height: int) -> models.Model:
    data = {name: value for name, value in change.items() if name != "kind"}
    return models.model_from_data(data, registered=height, by=credentials.GENESIS_ENDORSER)


_Check = Callable[[Reader, Parameters, Change, int], None]
_Effect = Callable[[View, Parameters, Change, int], None]
_CHECKS: Mapping[str, _Check] = {
    PARAMETER: _check_parameter,
    JOIN: _check_join,
    LEAVE: _check_power_of,
    POWER: _check_power_of,
    UPGRADE: _check_upgrade,
    CANCEL: _check_cancel,
    EXPEL: _check_expel,
    MODEL: _check_model,
}
_EFFECTS: Mapping[str, _Effect] = {
    PARAMETER: _make_parameter,
    JOIN: _make_join,
    LEAVE: _make_leave,
    POWER: _make_power,
    UPGRADE: _make_upgrade,
    CANCEL: _make_cancel,
    EXPEL: _make_expel,
    MODEL: _make_model,
}
