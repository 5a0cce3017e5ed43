"""Our proofs before cosmos' own verifier, github.com/cosmos/ics23/go at the version in go.mod."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from abci_app.core.ics23 import record_proof, root_proof
from abci_app.core.merkle import update
from abci_app.core.proofs import AbsenceProof, ExistenceProof, prove
from planetserve.merkle import EMPTY_HASH, map_root, sha256

ROOT = Path(__file__).resolve().parent.parent.parent
SIZES = (1, 2, 3, 5, 40, 300)


@dataclass(frozen=True, slots=True)
class Case:
    spec: str
    root: bytes
    key: bytes
    value: bytes | None
    proof: bytes


@pytest.fixture(scope="session")
def verifier() -> Path:
    """`make test` has built it; a bare pytest does so here, with the modules of Go's proxy."""
    setup = [sys.executable, str(ROOT / "tools" / "setup.py"), "ics23"]
    done = subprocess.run(setup, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ROOT / ".tools" / "bin" / "ics23-verifier"


def verdicts(verifier: Path, cases: list[Case]) -> list[bool]:
    def text(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    document = [
        {
            "spec": case.spec,
            "root": text(case.root),
            "key": text(case.key),
            "value": text(case.value),
            "proof": text(case.proof),
        }
        for case in cases
    ]
    done = subprocess.run(
        [verifier], input=json.dumps(document), capture_output=True, text=True, check=True
    )
    answer: list[bool] = json.loads(done.stdout)
    assert len(answer) == len(cases)
    return answer


def record_cases(size: int) -> tuple[list[Case], set[str]]:
    """Proofs of keys that are in a tree of `size` and of some that are not, with the kinds."""
    records = {b"nodes/%d" % number: b"value %d" % number for number in range(size)}
    root, written = update(lambda path: None, records)
    nodes = {path: node for path, node in written.items() if node is not None}
    cases, kinds = [], set()
    absent = [b"nodes/absent-%d" % number for number in range(60)]
    # The first and the last place of all, where a neighbour lies on one side only.
    by_hash = sorted((b"nodes/edge-%d" % number for number in range(5_000)), key=sha256)
    for key in [*list(records)[:40], *absent, by_hash[0], by_hash[-1]]:
        proof = prove(nodes.get, records.get, key)
        cases.append(Case("smt", root, key, records.get(key), record_proof(proof)))
        kinds.add(kind_of(proof))
    return cases, kinds


def kind_of(proof: ExistenceProof | AbsenceProof) -> str:
    if isinstance(proof, ExistenceProof):
        return "beside nothing" if EMPTY_HASH in proof.siblings else "present"
    if proof.left is None:
        return "left of all"
    return "right of all" if proof.right is None else "between two"


def map_cases() -> list[Case]:
    cases = []
    for size in (1, 2, 3, 7, 18):
        roots = {f"store-{number:02}": sha256(b"%d" % number) for number in range(size)}
        app_hash = map_root(roots)
        for name, root in roots.items():
            cases.append(Case("simple", app_hash, name.encode(), root, root_proof(roots, name)))
    return cases


def all_cases() -> list[Case]:
    return [case for size in SIZES for case in record_cases(size)[0]] + map_cases()


def test_every_true_proof_is_accepted(verifier: Path) -> None:
    kinds = set[str]().union(*(record_cases(size)[1] for size in SIZES))
    assert kinds == {"present", "beside nothing", "left of all", "right of all", "between two"}
    cases = all_cases()
    assert len(cases) > 400
    assert [
        case for case, good in zip(cases, verdicts(verifier, cases), strict=True) if not good
    ] == []


def test_no_false_one_is(verifier: Path) -> None:
    """A bit of the root, key, value or of each hash changed; a present key shown absent and the
    other way round; another key's proof."""
    rng = random.Random(23)
    false = []
    cases = all_cases()
    for case in cases:
        false.append(replace(case, root=flipped(case.root, rng)))
        false.append(replace(case, value=b"forged" if case.value is None else None))
        false.append(replace(case, proof=case.proof[:-1]))
        if case.value is not None:
            false.append(replace(case, key=case.key + b"!"))
            false.append(replace(case, value=flipped(case.value, rng)))
    for before, case in pairwise(cases):
        if case.value is not None and case.key != before.key:
            false.append(replace(case, proof=before.proof))
            # No absence proof of another key hides a present one.
            false.append(replace(case, value=None, proof=before.proof))
    answers = verdicts(verifier, false)
    assert [case for case, good in zip(false, answers, strict=True) if good] == []


def flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    place = rng.randrange(8 * len(data))
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)
