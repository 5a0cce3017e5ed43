"""docs/protocol.md lists the fields of the records that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from planetserve.encoding import decode
from tests.vectors.ledger import PATH

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
ROW = re.compile(r"^\| `([a-z_/]+)[A-Z ]*`[^|]*\| `\{(.*?)\}`", re.MULTILINE)
ANY_NAME = "pending"
"""The store of one record whose names are those of parameters."""


def fields_of(text: str) -> list[str]:
    """The names of a map as the page writes it, without what is said of their values."""
    while (shorter := re.sub(r"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}", "", text)) != text:
        text = shorter
    return [item.partition(":")[0].strip().split(" ")[0] for item in text.split(",")]


def test_the_fields_of_records() -> None:
    documented = {
        prefix: fields_of(names)
        for prefix, names in ROW.findall(PAGE)
        if "/" in prefix and ANY_NAME not in prefix
    }
    seen = set()
    for key, value in json.loads(PATH.read_text())["state"].items():
        raw = bytes.fromhex(key)
        prefix = raw.partition(b"/")[0].decode() + "/"
        if prefix == "chain/":
            prefix = raw.decode()
        record = decode(bytes.fromhex(value))
        if prefix in documented:
            assert isinstance(record, dict)
            assert sorted(record) == sorted(documented[prefix]), prefix
            seen.add(prefix)
    assert seen >= {"chain/main", "results/", "epochs/", "reputation/", "verifiers/", "routes/"}
    unseen = documented.keys() - seen
    assert unseen <= {"chain/upgrade", "rotations/", "commits/", "quotas/"}, unseen
