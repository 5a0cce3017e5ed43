"""Transcripts: every probe with its signed answer, kept so that anyone can score it again.

One JSON object a line. Two files at most, the older one dropped when the newer is full.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Transcript:
    """One probe. `request` is the body that was sent, `signature` the node's over the reply's
    statement (`planetserve.messages.ReplyStatement`), which `request`, `reply`, `finish_reason`,
    `model` and the counts of tokens make up."""

    epoch: int
    node: str
    request: str
    reply: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    signature: str
    reference: str
    similarity_ppm: int
    credit_ppm: int
    failure: str = ""

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


def refused(epoch: int, node: bytes, failure: str) -> Transcript:
    """A probe that brought no answer to score."""
    return Transcript(
        epoch=epoch,
        node=node.hex(),
        request="",
        reply="",
        finish_reason="",
        model="",
        prompt_tokens=0,
        completion_tokens=0,
        cached_tokens=0,
        signature="",
        reference="",
        similarity_ppm=0,
        credit_ppm=0,
        failure=failure,
    )


def digest(transcripts: Sequence[Transcript]) -> bytes:
    """SHA-256 over the transcripts of one node and epoch; the commit binds the prober to it."""
    return hashlib.sha256(b"\n".join(item.encode() for item in transcripts)).digest()


def keep(path: Path, transcripts: Sequence[Transcript]) -> None:
    """Append to the file at `path`, readable by its owner only."""
    if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
        path.replace(path.with_suffix(".old"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(item.encode() + b"\n" for item in transcripts))
