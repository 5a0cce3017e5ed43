"""The targets on what fuzzing has found worth keeping, and on what honest peers send."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.driver import corpus
from tests.fuzz.mutators import MUTATORS, PROGRAMS
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
NAMES = sorted(TARGETS)
MUTATIONS = 2_000
OF_A_PROGRAM = 300
"""Its inputs take longer."""
FUZZING_S = int(os.environ.get("PS_TEST_FUZZING_S", "600"))
"""Of each target."""


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_finds_no_fault(name: str) -> None:
    inputs = sorted(corpus(name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_what_honest_peers_send_finds_no_fault(name: str) -> None:
    for seed in SEEDS[name]():
        TARGETS[name](seed)


@pytest.mark.parametrize("name", sorted(MUTATORS))
def test_nor_does_a_well_formed_change_of_it(name: str) -> None:
    random, seeds = Random(1), list(SEEDS[name]())
    for _ in range(OF_A_PROGRAM if name in PROGRAMS else MUTATIONS):
        data = random.choice(seeds)
        for _ in range(random.randrange(1, 4)):
            data = MUTATORS[name](data, random)
        TARGETS[name](data)


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris: Linux, x86_64")
@pytest.mark.parametrize("name", NAMES)
def test_fuzzing_finds_no_fault(name: str, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    limits = [f"-max_total_time={FUZZING_S}", "-timeout=30", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{name}", *limits, str(found)],
        cwd=ROOT,
        # libFuzzer ends the process without its exit handlers; what they would remove lies here.
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=FUZZING_S + 200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
