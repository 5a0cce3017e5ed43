"""The whole state as the `app_state` of a genesis document, and back.

    {"height": HEIGHT, "records": {STORE: [[KEY, VALUE], ...], ...}}

HEIGHT is the block after which the state was such. KEY is what follows `STORE/` in the state
key; both are base64. Stores that hold nothing are left out, keys ascend. A chain that starts from
it has the exported state to the byte, and so its app hash; heights in records count on, so its
genesis document's `initial_height` must be the height after HEIGHT.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from abci_app.core.chain import GenesisError
from abci_app.core.imported import check_state
from planetserve.encoding import EncodingError, decode
from planetserve.statekeys import STORES

MAX_KEY_BYTES = 1_024


def exported_state(records: Iterable[tuple[bytes, bytes]], height: int) -> dict[str, Any]:
    """The `app_state` of a state's records after block `height`, which come in ascending order of
    keys."""
    stores: dict[str, list[list[str]]] = {}
    for key, value in records:
        store, _, rest = key.partition(b"/")
        stores.setdefault(store.decode(), []).append([_text(rest), _text(value)])
    return {"height": height, "records": stores}


def imported_state(
    chain_id: str, document: Mapping[str, Any], initial_height: int
) -> dict[bytes, bytes]:
    """The records of an exported `app_state` that a chain goes on from with block
    `initial_height`. Raises `GenesisError`."""
    stores = document.get("records")
    if set(document) != {"height", "records"} or not isinstance(stores, dict):
        raise GenesisError("an exported app_state holds a height, records and nothing else")
    height = document["height"]
    if type(height) is not int or height < 0 or initial_height != height + 1:
        raise GenesisError(
            f"the records are of height {height!r}, and the chain would begin at {initial_height}"
        )
    state: dict[bytes, bytes] = {}
    for store, pairs in stores.items():
        if store not in STORES or not isinstance(pairs, list):
            raise GenesisError("records are lists by store")
        prefix, last = store.encode() + b"/", b""
        for pair in pairs:
            rest, value = _record(pair)
            if rest <= last:
                raise GenesisError(f"the keys of {store} do not ascend")
            last = rest
            state[prefix + rest] = value
    check_state(chain_id, state, initial_height)
    return state


def exported_text(document: Mapping[str, Any]) -> str:
    """A genesis document as JSON text with one form; stores and documents are its only maps."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _record(pair: Any) -> tuple[bytes, bytes]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise GenesisError("a record is a key and a value")
    rest, value = (_bytes(item) for item in pair)
    if not rest or len(rest) > MAX_KEY_BYTES:
        raise GenesisError(f"a key has 1 to {MAX_KEY_BYTES} bytes")
    try:
        decode(value)
    except EncodingError:
        raise GenesisError("a value is not canonical MessagePack") from None
    return rest, value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise GenesisError("keys and values are base64") from None
    if _text(data) != text:
        raise GenesisError("base64 has one form")
    return data
