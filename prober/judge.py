"""Asks a node its challenges and turns the answers into a verdict."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

from modelnode.engines.protocol import Engine
from planetserve.chat import parse_fields
from planetserve.client import Answer, AsyncClient
from planetserve.errors import (
    AnswerCutShort,
    EngineError,
    NetworkNotFound,
    NodeUnreachable,
    PathsUnavailable,
    PlanetServeError,
    RemoteProtocolError,
)
from planetserve.records import NodeRecord
from prober.challenges import challenge
from prober.embedding import Embedder
from prober.epoch_round import Score
from prober.scoring import node_credit_ppm, reply_credit_ppm, to_ppm
from prober.transcripts import Transcript, digest, refused

SALT_BYTES = 32


class NoVerdict(PlanetServeError):
    """The node could not be judged, through no proven fault of its own: it was unreachable or
    overloaded, or our reference failed. Then a prober says nothing rather than something wrong."""


@dataclass(frozen=True, slots=True)
class Verdict:
    score: Score
    transcripts: tuple[Transcript, ...]
    prompt_bytes: int
    similarity_ppm: int


class Judge:
    """Holds what scoring needs: the client, the reference engine and the embedding model, which
    loads on first use, on a thread."""

    def __init__(self, client: AsyncClient, reference: Engine, seed: bytes) -> None:
        self._client = client
        self._reference = reference
        self._seed = seed
        self._embedder: Embedder | None = None
        self._loading = asyncio.Lock()

    async def judge(self, node: NodeRecord, epoch: int, samples: int) -> Verdict:
        """Ask `samples` challenges. Raises `NoVerdict`."""
        transcripts = []
        prompt_bytes = 0
        for index in range(samples):
            fields = challenge(self._seed, epoch, node.id, index, node.model)
            prompt_bytes += len(fields["messages"][-1]["content"].encode())
            transcripts.append(await self._probe(node, epoch, fields))
        credit = node_credit_ppm([item.credit_ppm for item in transcripts])
        similarity = sum(item.similarity_ppm for item in transcripts) // samples
        score = Score(node.id, credit, samples, digest(transcripts), os.urandom(SALT_BYTES))
        return Verdict(score, tuple(transcripts), prompt_bytes // samples, similarity)

    async def load(self) -> Embedder:
        async with self._loading:
            if self._embedder is None:
                self._embedder = await asyncio.to_thread(Embedder)
            return self._embedder

    async def _probe(self, node: NodeRecord, epoch: int, fields: dict[str, Any]) -> Transcript:
        # No seed: at temperature 0 it changes nothing, and users rarely send one.
        options = {name: fields[name] for name in ("max_tokens", "temperature")}
        answer: Answer | None = None
        failure = ""
        try:
            answer = await self._client.ask(
                fields["messages"],
                model=node.model,
                node=node.id,
                **options,
            )
        except (NodeUnreachable, PathsUnavailable, NetworkNotFound, AnswerCutShort) as error:
            raise NoVerdict(f"no answer: {error}") from error
        except EngineError as error:
            if error.code == "overloaded":
                raise NoVerdict(f"no answer: {error}") from error
            failure = f"refused: {error.code}"
        except RemoteProtocolError as error:
            failure = f"invalid answer: {error}"
        if answer is None:
            return refused(epoch, node.id, failure)
        reference = await self._reference_reply(fields)
        embedder = await self.load()
        (cosine,) = await asyncio.to_thread(embedder.similarities, [(answer.text, reference)])
        similarity = max(to_ppm(cosine), 0)
        return Transcript(
            epoch=epoch,
            node=node.id.hex(),
            request=answer.request_body.decode(),
            reply=answer.text,
            finish_reason=answer.finish_reason,
            model=answer.model,
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
            cached_tokens=answer.usage.cached_tokens,
            signature=answer.signature.hex(),
            reference=reference,
            similarity_ppm=similarity,
            credit_ppm=reply_credit_ppm(similarity, answer.text, reference),
        )

    async def _reference_reply(self, fields: dict[str, Any]) -> str:
        try:
            pieces = [piece.text async for piece in self._reference.stream(parse_fields(fields))]
        except EngineError as error:
            raise NoVerdict(f"the reference engine failed: {error}") from error
        return "".join(pieces)
