"""What readers can ask, answered from one state. Values are canonical MessagePack.

    /status              chain, height, app hash, the epoch of the next block, parameters, verifiers
    /params              parameters by name
    /routes              every node's record, in ascending order of ids
    /node/HEX            one node's record
    /account/HEX         {"nonce": the next one}
    /epoch/N             an epoch's record: counts, then "results" once settled, before that
                         what is "revealed" so far
    /reputation/HEX      {"node": record, "history": the node's last results, oldest first}

An answer without value means that nothing is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from abci_app.core.codes import MEANINGS, Code, Rejected
from abci_app.core.context import epoch_of, window_of
from abci_app.core.parameters import load_chain
from abci_app.core.quotas import Quota
from abci_app.core.routes import all_routes, route
from abci_app.core.settlement import current_reveals
from abci_app.core.state import (
    Reader,
    account_key,
    epoch_key,
    load,
    quotas_prefix,
    records,
    result_key,
    results_prefix,
)
from abci_app.core.verifiers import all_verifiers
from planetserve.encoding import encode
from planetserve.keys import NODE_ID_BYTES

MAX_HISTORY = 100
MAX_EPOCH = 1 << 60
IDENTIFIER = re.compile(rf"[0-9a-f]{{{2 * NODE_ID_BYTES}}}")
NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed state: what to read, its height and the app hash of that height."""

    reader: Reader
    height: int
    app_hash: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    code: Code
    log: str = ""
    value: bytes = b""


def answer(state: Committed, path: str) -> Answer:
    """Answer one query; never raises for any `path`."""
    name, _, argument = path.removeprefix("/").partition("/")
    query = QUERIES.get(name)
    if query is None or not path.startswith("/"):
        known = ", ".join(f"/{known}" for known in sorted(QUERIES))
        return Answer(Code.UNKNOWN_PATH, f"{MEANINGS[Code.UNKNOWN_PATH]}: there are {known}")
    if state.height == 0:
        return Answer(Code.OK)
    try:
        value = query(state, argument)
    except Rejected as rejection:
        return Answer(rejection.code, rejection.log)
    return Answer(Code.OK, value=b"" if value is None else encode(value))


def _status(state: Committed, argument: str) -> Any:
    _nothing(argument)
    chain = load_chain(state.reader)
    window = window_of(epoch_of(state.height + 1, chain.parameters), chain.parameters)
    nodes = sum(1 for _ in state.reader.scan(b"nodes/"))
    return {
        "chain_id": chain.chain_id,
        "height": state.height,
        "app_hash": state.app_hash,
        # The epoch that the next block belongs to: the first block that a transaction sent now
        # can enter. Commits enter at heights from epoch_start to before commit_end, reveals from
        # commit_end to before reveal_end; epoch_end is the next epoch's first height.
        "epoch": window.epoch,
        "epoch_start": window.start,
        "commit_end": window.commit_end,
        "reveal_end": window.reveal_end,
        "epoch_end": window.end,
        "params": chain.parameters.to_wire(),
        "verifiers": [
            {"id": item.id, "name": item.name, "power": item.power, "key": item.key}
            for item in all_verifiers(state.reader)
        ],
        "nodes": nodes,
    }


def _params(state: Committed, argument: str) -> Any:
    _nothing(argument)
    return load_chain(state.reader).parameters.to_wire()


def _routes(state: Committed, argument: str) -> Any:
    _nothing(argument)
    return [record.to_wire() for record in all_routes(state.reader, state.height)]


def _node(state: Committed, argument: str) -> Any:
    record = route(state.reader, _identifier(argument), state.height)
    return None if record is None else record.to_wire()


def _account(state: Committed, argument: str) -> Any:
    return load(state.reader, account_key(_identifier(argument)))


def _reputation(state: Committed, argument: str) -> Any:
    identifier = _identifier(argument)
    record = route(state.reader, identifier, state.height)
    if record is None:
        return None
    history = list(records(state.reader, results_prefix(identifier)))[-MAX_HISTORY:]
    return {"node": record.to_wire(), "history": [result for _, result in history]}


def _epoch(state: Committed, argument: str) -> Any:
    if NUMBER.fullmatch(argument) is None or int(argument) > MAX_EPOCH:
        raise Rejected(Code.BAD_ARGUMENT, "an epoch is a number")
    epoch = int(argument)
    record = load(state.reader, epoch_key(epoch))
    if record is not None:
        found = (
            load(state.reader, result_key(key, epoch))
            for key, _ in records(state.reader, b"nodes/")
        )
        results = [result for result in found if result is not None]
        return {**record, "revealed": [], "results": results}
    parameters = load_chain(state.reader).parameters
    if epoch != epoch_of(state.height + 1, parameters):
        return None
    window = window_of(epoch, parameters)
    quotas = [(key, Quota(**item)) for key, item in records(state.reader, quotas_prefix(epoch))]
    return {
        "epoch": epoch,
        "start": window.start,
        "end": window.end,
        "settled": None,
        "commits": sum(quota.commits for _, quota in quotas),
        "reveals": sum(quota.reveals for _, quota in quotas),
        "revealed": [
            {"node": node, "prober": prober, **asdict(reveal)}
            for node, prober, reveal in current_reveals(state.reader, epoch)
        ],
        "results": [],
    }


QUERIES: dict[str, Callable[[Committed, str], Any]] = {
    "account": _account,
    "epoch": _epoch,
    "node": _node,
    "params": _params,
    "reputation": _reputation,
    "routes": _routes,
    "status": _status,
}


def _identifier(argument: str) -> bytes:
    if IDENTIFIER.fullmatch(argument) is None:
        raise Rejected(Code.BAD_ARGUMENT, f"an id is {2 * NODE_ID_BYTES} lower-case hex digits")
    return bytes.fromhex(argument)


def _nothing(argument: str) -> None:
    if argument:
        raise Rejected(Code.BAD_ARGUMENT, "this path takes none")
