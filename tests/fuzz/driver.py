"""Runs a target under atheris, which measures what each input reaches.

    python -m tests.fuzz.transactions [libFuzzer options, e.g. -max_total_time=600] [FOLDERS]

The seeds and new inputs go to the first folder (by default one below /tmp that is named at the
start); what is kept in `corpus/` is read besides. A crash leaves its input in the current folder.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from random import Random
from tempfile import mkdtemp

MAX_INPUT_BYTES = 8_192
MEASURED = (
    *("abci_app", "overlay", "planetserve"),
    *("tests.fuzz.targets", "tests.fuzz.overlay_targets", "tests.fuzz.relay_target"),
    *("tests.fuzz.client_path_target", "tests.fuzz.inbox_target", "tests.fuzz.answer_target"),
)


def corpus(name: str) -> Path:
    return Path(__file__).parent / "corpus" / name


def fuzz(name: str, part: str = "") -> None:
    """Does not return. The target's modules must not have been imported before; the overlay's
    are a `part` of their own, since the ledger's take long to load so."""
    try:
        import atheris
    except ImportError:
        sys.exit("error: atheris is not installed; it has wheels for Linux on x86_64 only")
    with atheris.instrument_imports(include=list(MEASURED)):
        from tests.fuzz.mutators import MUTATORS

        seeds = import_module(f"tests.fuzz.{part}seeds").SEEDS[name]
        target = import_module(f"tests.fuzz.{part}targets").TARGETS[name]
    folders = [item for item in sys.argv[1:] if not item.startswith("-")]
    options = [item for item in sys.argv[1:] if item.startswith("-")]
    if not folders:
        folders = [mkdtemp(prefix=f"planetserve-found-{name}-")]
        print(f"new inputs: {folders[0]}", flush=True)
    for number, seed in enumerate(seeds()):
        (Path(folders[0]) / f"seed-{number}").write_bytes(seed)
    options = [f"-max_len={MAX_INPUT_BYTES}", *options]
    reading = [str(corpus(name))] if corpus(name).is_dir() else []

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        """In part as libFuzzer would, in part with an eye to the form."""
        random = Random(seed)
        if name not in MUTATORS or random.random() < 0.5:
            return bytes(atheris.Mutate(data, max_bytes))
        return MUTATORS[name](data, random)[:max_bytes]

    arguments = [sys.argv[0], *options, *folders, *reading]
    atheris.Setup(arguments, target, custom_mutator=mutate)
    atheris.Fuzz()
