"""Scores that are committed and not yet revealed, kept on disk.

A prober that is restarted between the two must still be able to open its commitments: the ledger
takes trust from one that does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from planetserve.errors import ConfigurationError
from prober.epoch_round import Score


def save(path: Path, epoch: int, scores: Iterable[Score]) -> None:
    """Replace the file at `path`, readable by its owner only, in one step."""
    entries = [
        {
            "node": score.node.hex(),
            "score_ppm": score.score_ppm,
            "samples": score.samples,
            "digest": score.digest.hex(),
            "salt": score.salt.hex(),
        }
        for score in scores
    ]
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"epoch": epoch, "scores": entries}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def load(path: Path) -> tuple[int, list[Score]]:
    """The epoch and its scores; epoch -1 when nothing is pending. Raises `ConfigurationError`."""
    try:
        content = json.loads(path.read_text())
        scores = [
            Score(
                node=bytes.fromhex(entry["node"]),
                score_ppm=int(entry["score_ppm"]),
                samples=int(entry["samples"]),
                digest=bytes.fromhex(entry["digest"]),
                salt=bytes.fromhex(entry["salt"]),
            )
            for entry in content["scores"]
        ]
        return int(content["epoch"]), scores
    except FileNotFoundError:
        return -1, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} holds the scores that a former run committed to and cannot be read: {error}. "
            "Remove it to go on; what it committed to then stays unopened"
        ) from error
