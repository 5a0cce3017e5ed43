"""What readers may ask of a committed state, and what they can check each answer with.

`/state` proves records and whole stores at once; `planetserve.light.proven` reads its answer.
`/store/NAME/key` is for readers of other chains, with proofs in ICS-23's form. `/roots/HEIGHT`
(without a height: the last) proves nothing: with it two nodes find where they part.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import msgpack

from abci_app.core.codes import Code, Rejected
from abci_app.core.ics23 import record_proof, root_proof
from abci_app.core.merkle import compact_proof
from abci_app.core.proofs import prove
from planetserve.encoding import EncodingError, decode, encode
from planetserve.merkle import EMPTY_HASH
from planetserve.statekeys import STORES, store_of

MAX_KEYS = 1_000
MAX_KEY_BYTES = 1_024
MAX_STORES = 4
MAX_REQUEST_BYTES = 256 << 10
MAX_ANSWER_BYTES = 16 << 20
"""An answer is base64 in JSON, of which readers take 32 MiB (`planetserve.rpc`)."""
RECORD_BYTES, SIBLING_BYTES = 16, 34
"""What MessagePack adds to a record, and a sibling with it."""
STORE_PATH = re.compile(r"/store/([a-z]+)/key")
ROOTS_PATH = re.compile(r"/roots(?:/([1-9][0-9]{0,18}))?")
SMT_PROOF, SIMPLE_PROOF = "ics23:smt", "ics23:simple"


class Committed(Protocol):
    """The state after one block."""

    @property
    def height(self) -> int: ...

    @property
    def roots(self) -> Mapping[str, bytes]: ...

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]: ...

    def tree_node(self, store: str, path: bytes) -> bytes | None: ...


RootsAt = Callable[[int], "tuple[bytes, Mapping[str, bytes]] | None"]
"""The app hash and the stores' roots of a recent height."""


class Stores:
    """Whole stores as answers hold them, a few remembered by their roots: most stores are the same
    from one height to the next, and the route set is asked for by everyone. Any thread may read;
    who asks for the same store waits for the first to have read it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, list[list[bytes]], int]] = {}
        self._lock = threading.Lock()

    def read(self, state: Committed, name: str, max_bytes: int) -> tuple[list[list[bytes]], int]:
        """The records of a store and about how many bytes they take. Raises `Rejected` when they
        exceed `max_bytes`."""
        with self._lock:
            return self._read(state, name, max_bytes)

    def _read(self, state: Committed, name: str, max_bytes: int) -> tuple[list[list[bytes]], int]:
        known = self._known.get(name)
        if known is None or known[0] != state.roots[name]:
            pairs, size = [], 0
            for key, value in state.scan(name.encode() + b"/"):
                pairs.append([key, value])
                size += len(key) + len(value) + RECORD_BYTES
                if size > max_bytes:
                    raise _too_much()
            known = state.roots[name], pairs, size
            self._known.pop(name, None)
            self._known[name] = known
            if len(self._known) > MAX_STORES:
                del self._known[next(iter(self._known))]
        if known[2] > max_bytes:
            raise _too_much()
        return known[1], known[2]


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a proof: `data` is an ICS-23 `CommitmentProof`."""

    kind: str
    key: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`height` is that of the state which `value` was read from."""

    code: Code
    log: str = ""
    value: bytes = b""
    key: bytes = b""
    height: int = 0
    proof: tuple[Operation, ...] = ()


def answer(
    state: Committed, path: str, data: bytes, stores: Stores, roots_at: RootsAt, *, proven: bool
) -> Answer:
    """Answer one query; raises for no `path` or `data`."""
    try:
        if path == "/state":
            return _state(state, data, stores)
        if (match := STORE_PATH.fullmatch(path)) and match[1] in STORES:
            return _record(state, match[1], data, proven)
        if match := ROOTS_PATH.fullmatch(path):
            return _roots(roots_at, int(match[1] or state.height))
    except Rejected as rejection:
        return refusal(rejection)
    known = f"there are /state, /store/NAME/key and /roots/HEIGHT; NAME is one of {STORE_NAMES}"
    return refusal(Rejected(Code.UNKNOWN_PATH, known))


STORE_NAMES = ", ".join(STORES)


def refusal(rejection: Rejected) -> Answer:
    return Answer(rejection.code, rejection.log)


def _state(state: Committed, data: bytes, stores: Stores) -> Answer:
    keys, names = _asked(data)
    left = MAX_ANSWER_BYTES
    records = []
    # Most of the ways to keys of one store lead past the same nodes first.
    stores_of = {key: store_of(key) for key in keys}
    reads = {
        store: lru_cache(maxsize=None)(partial(state.tree_node, store))
        for store in set(stores_of.values())
    }
    for key, store in stores_of.items():
        siblings, leaf = compact_proof(reads[store], key)
        value = state.get(key)
        records.append(
            {
                "key": key,
                "leaf": None if leaf is None else list(leaf),
                "siblings": list(siblings),
                "value": value,
            }
        )
        left -= 64 + len(key) + len(value or b"") + SIBLING_BYTES * (len(siblings) + 2)
        if left < 0:
            raise _too_much()
    whole = {}
    for name in names:
        whole[name], size = stores.read(state, name, left)
        left -= size
    roots = {name: state.roots[name] for name in sorted(state.roots)}
    # Ascending keys and plain types throughout, so this is the canonical form.
    value = msgpack.packb({"records": records, "roots": roots, "stores": whole})
    return Answer(Code.OK, value=value, height=state.height)


def _asked(data: bytes) -> tuple[Sequence[bytes], Sequence[str]]:
    """The keys and the ascending names of stores of a `/state` query."""
    try:
        asked = decode(data, max_bytes=MAX_REQUEST_BYTES)
    except EncodingError:
        raise Rejected(Code.BAD_ARGUMENT, "data is canonical MessagePack") from None
    if not isinstance(asked, dict) or tuple(asked) != ("keys", "stores"):
        raise Rejected(Code.BAD_ARGUMENT, "data holds exactly keys and stores")
    keys, names = asked["keys"], asked["stores"]
    if not isinstance(keys, list) or not all(_is_key(key) for key in keys):
        raise Rejected(Code.BAD_ARGUMENT, "keys are state keys, each beginning with its store")
    if not isinstance(names, list) or not all(name in STORES for name in names):
        raise Rejected(Code.BAD_ARGUMENT, f"stores are among {STORE_NAMES}")
    if len(keys) > MAX_KEYS:
        raise Rejected(Code.TOO_MUCH_ASKED, f"{MAX_KEYS} keys are allowed")
    if len(set(keys)) < len(keys):
        raise Rejected(Code.BAD_ARGUMENT, "a key is asked for once")
    if len(names) > MAX_STORES:
        raise Rejected(Code.TOO_MUCH_ASKED, f"{MAX_STORES} stores are allowed")
    return keys, sorted(set(names))


def _is_key(key: Any) -> bool:
    if not isinstance(key, bytes) or len(key) > MAX_KEY_BYTES:
        return False
    store, slash, _ = key.partition(b"/")
    return bool(slash) and store.isascii() and store.decode() in STORES


def _record(state: Committed, store: str, rest: bytes, proven: bool) -> Answer:
    if not rest or len(rest) > MAX_KEY_BYTES:
        raise Rejected(Code.BAD_ARGUMENT, f"data is the key after {store}/")
    key = store.encode() + b"/" + rest
    operations: tuple[Operation, ...] = ()
    if proven and state.roots[store] != EMPTY_HASH:
        # Of an empty store the root alone says that nothing is in it.
        proof = prove(partial(state.tree_node, store), state.get, key)
        operations = (Operation(SMT_PROOF, key, record_proof(proof)),)
    if proven:
        root = root_proof(state.roots, store)
        operations += (Operation(SIMPLE_PROOF, store.encode(), root),)
    return Answer(
        Code.OK, value=state.get(key) or b"", key=key, height=state.height, proof=operations
    )


def _roots(roots_at: RootsAt, height: int) -> Answer:
    found = roots_at(height)
    if found is None:
        raise Rejected(Code.BAD_ARGUMENT, "the roots of this height are not kept")
    app_hash, roots = found
    value = encode({"app_hash": app_hash, "height": height, "roots": dict(roots)})
    return Answer(Code.OK, value=value, height=height)


def _too_much() -> Rejected:
    return Rejected(Code.TOO_MUCH_ASKED, f"an answer has at most {MAX_ANSWER_BYTES >> 20} MiB")
