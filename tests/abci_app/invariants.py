"""What holds of every state that blocks have made, found anew from all of its records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from planetserve.encoding import decode
from planetserve.statekeys import CANDIDATES_KEY, SUCCESSION

ID_BYTES, HEIGHT_BYTES = 20, 8


def check(items: Mapping[bytes, bytes], height: int, patience_blocks: int) -> None:
    """The state `items` after block `height`; `patience_blocks` is the longest patience with
    nodes that nobody endorses that was ever in force."""
    stores: defaultdict[str, dict[bytes, object]] = defaultdict(dict)
    for key, value in items.items():
        store, _, rest = key.partition(b"/")
        stores[store.decode()][rest] = decode(value)
    _check_nodes(stores, items, height, patience_blocks)
    _check_credentials(stores, height)
    _check_keys(stores)
    for record in stores["verifiers"].values():
        assert isinstance(record, dict)
        assert max(1, record["voted_power"] // 2) <= record["power"] <= record["voted_power"]


Stores = Mapping[str, Mapping[bytes, object]]


def _node(record: object) -> dict[str, object]:
    assert isinstance(record, dict)
    return record


def _check_nodes(
    stores: Stores, items: Mapping[bytes, bytes], height: int, patience_blocks: int
) -> None:
    nodes = {identifier: _node(record) for identifier, record in stores["nodes"].items()}
    waiting = {identifier for identifier, node in nodes.items() if node["waiting"]}
    retired = {identifier for identifier, node in nodes.items() if node["retired"]}
    counted = items.get(CANDIDATES_KEY)
    assert (0 if counted is None else decode(counted)) == len(waiting)
    assert not waiting & retired
    assert not (waiting | retired) & stores["verifiers"].keys()
    assert set(stores["waiting"]) == waiting | retired
    assert set(stores["routes"]) == nodes.keys() - waiting - retired
    notes = defaultdict(list)
    for rest in stores["expiries"]:
        if len(rest) == HEIGHT_BYTES + ID_BYTES:
            notes[rest[HEIGHT_BYTES:]].append(int.from_bytes(rest[:HEIGHT_BYTES], "big"))
    for identifier in waiting | retired:
        since = nodes[identifier]["retired"] or nodes[identifier]["waiting"]
        assert isinstance(since, int)
        assert min(notes[identifier]) <= since + patience_blocks
    for known in stores["reputation"], stores["rotations"], stores["waiting"], stores["routes"]:
        assert known.keys() <= nodes.keys(), "nothing is kept of who was forgotten"


def _check_credentials(stores: Stores, height: int) -> None:
    ends: set[bytes] = set()
    given: Counter[bytes] = Counter()
    vouched_for = set()
    for rest, record in stores["credentials"].items():
        credential = _node(record)
        expires, revoked = credential["expires"], credential["revoked"]
        assert isinstance(expires, int)
        ends.add((expires + 1).to_bytes(HEIGHT_BYTES, "big") + rest)
        given[rest[-ID_BYTES:]] += 1
        if not revoked and expires >= height:
            vouched_for.add(rest[:ID_BYTES])
    found = {rest for rest in stores["expiries"] if len(rest) > HEIGHT_BYTES + ID_BYTES}
    assert found == ends, "each credential has one note of its end"
    for rest in stores["expiries"]:
        assert int.from_bytes(rest[:HEIGHT_BYTES], "big") > height, "no note is past"
    assert stores["endorsers"] == given
    nodes = stores["nodes"]
    assert not [node for node in vouched_for & nodes.keys() if _node(nodes[node])["waiting"]]


def _check_keys(stores: Stores) -> None:
    """Each key that a node announced is its own, and each id that one gave up leads to it."""
    expected: dict[bytes, object] = {}
    for identifier, record in stores["nodes"].items():
        node = _node(record)
        if not node["retired"]:
            expected[b"o" + _bytes(node["onion_key"])] = identifier
            expected[b"t" + _bytes(node["transport_key"])] = identifier
        former = node["former"]
        assert isinstance(former, list)
        for given_up, _ in former:
            expected[SUCCESSION + given_up] = identifier
    for identifier, record in stores["rotations"].items():
        expected[SUCCESSION + _bytes(_node(record)["successor"])] = identifier
    assert stores["keys"] == expected


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
