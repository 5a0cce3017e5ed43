"""vLLM: a server of our own, or one that runs already.

It speaks OpenAI's protocol; beyond that it tells the tokens of a prompt, how probable a given
reply is, and through its metrics and KV events what its cache holds.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq.asyncio

from modelnode.engines.http_client import Endpoint, EngineHttp, endpoint_of
from modelnode.engines.openai_http import OpenAiEngine, Upstream, encode, find_model, turns_of
from modelnode.engines.private_folder import make_socket_folder
from modelnode.engines.protocol import EngineStats, TokenScore
from modelnode.engines.vllm_events import KvEvent, follow_events, subscribe
from modelnode.engines.vllm_metrics import VllmMetrics, read_metrics
from modelnode.engines.vllm_process import (
    VllmProcess,
    VllmSettings,
    events_endpoint,
    socket_in,
)
from modelnode.metrics import ENGINE_KV_USAGE, ENGINE_PREFIX_TOKENS, ENGINE_STARTS
from planetserve.chat import Message
from planetserve.errors import ConfigurationError, EngineError
from planetserve.http import HttpError
from planetserve.logs import get_logger

POLL_INTERVAL_S = 2.0
POLL_TIMEOUT_S = 5.0
MAX_METRICS_BYTES = 4 << 20
MAX_SCORES_BYTES = 64 << 20
"""Some two hundred bytes a token, of prompt and reply."""
MISSED_POLLS = 3
"""After so many in a row the server is not expected to answer requests."""

log = get_logger()


class VllmEngine(OpenAiEngine):
    """Make it with `start_vllm` or `attach_vllm`. `on_kv_events` gets what the server tells of
    its cache, where it does."""

    def __init__(self, http: EngineHttp, upstream: Upstream, metrics: VllmMetrics) -> None:
        super().__init__(http, upstream)
        self.metrics = metrics
        self.on_kv_events: Callable[[Sequence[KvEvent]], None] = lambda events: None
        self._process: VllmProcess | None = None
        self._missed_polls = 0
        self._foreign = 0
        self._ours = AsyncExitStack()

    async def token_ids(self, messages: Sequence[Message]) -> Sequence[int] | None:
        return await self._tokenize({"messages": turns_of(messages)})

    async def score(self, messages: Sequence[Message], reply: str) -> Sequence[TokenScore]:
        """Raises `EngineError` when the server does not answer as vLLM does."""
        prompt = await self.token_ids(messages)
        words = await self._tokenize({"prompt": reply, "add_special_tokens": False})
        if prompt is None or words is None:
            raise EngineError("engine_failed", "vLLM did not cut the prompt")
        if not words:
            return []
        body = {
            "model": self._upstream.model,
            "prompt": [*prompt, *words],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 1,
        }
        try:
            status, answer = await self._http.fetch(
                "POST", "/v1/completions", encode(body), max_bytes=MAX_SCORES_BYTES
            )
        except HttpError as error:
            raise EngineError("engine_failed", f"the engine's server failed: {error}") from error
        if status != 200:
            raise self._refusal(status, answer)
        return read_scores(answer, words)

    def stats(self) -> EngineStats:
        """Requests that others than this node sent to the server are counted too."""
        own = super().stats()
        inside = own.running + self._foreign
        queued = min(self.metrics.waiting, inside)
        return replace(
            own,
            running=inside - queued,
            waiting=own.waiting + queued,
            kv_block_tokens=self.metrics.block_tokens or own.kv_block_tokens,
            kv_capacity_tokens=self.metrics.capacity_tokens,
            serving=self.serving,
        )

    @property
    def serving(self) -> bool:
        if self._process is not None and not self._process.ready:
            return False
        return self._missed_polls < MISSED_POLLS

    async def close(self) -> None:
        await self._ours.aclose()
        await super().close()

    def _refuse_when_down(self) -> None:
        if not self.serving:
            raise EngineError("engine_failed", "vLLM does not run; it is being started again")

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            metrics = await fetch_metrics(self._http)
            if metrics is None:
                self._missed_polls += 1
                self._foreign = 0
                continue
            self._missed_polls = 0
            self.metrics = metrics
            ENGINE_KV_USAGE.set(metrics.kv_usage)
            ENGINE_PREFIX_TOKENS.labels("queried").set(metrics.prefix_queries)
            ENGINE_PREFIX_TOKENS.labels("found").set(metrics.prefix_hits)
            if self._process is not None:
                ENGINE_STARTS.set(self._process.starts)
            known = self._admission.running
            self._foreign = max(metrics.running + metrics.waiting - known, 0)

    def _follow(self, endpoint: str) -> None:
        """Raises `ConfigurationError`."""
        context = zmq.asyncio.Context()
        self._ours.callback(context.destroy, 0)
        socket = subscribe(endpoint, context)
        self._run(follow_events(socket, lambda events: self.on_kv_events(events)), "kv events")

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report)

        async def cancel() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._ours.push_async_callback(cancel)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("engine_task_failed", task=task.get_name(), exc_info=task.exception())


def read_scores(answer: bytes, words: Sequence[int]) -> list[TokenScore]:
    """The scores of `words`, which end the prompt that `answer` is about. Raises `EngineError`."""
    try:
        (choice,) = json.loads(answer)["choices"]
        places = choice["prompt_logprobs"][-len(words) :]
        return [_score(place, token) for place, token in zip(places, words, strict=True)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError("engine_failed", "vLLM gave no log-probabilities") from error


def _score(place: Any, token: int) -> TokenScore:
    """`place` maps the token that stands there and the most probable one to what is known."""
    own = float(place[str(token)]["logprob"])
    top = max(float(known["logprob"]) for known in place.values())
    if not own <= top <= 0:
        raise ValueError("not the logarithm of a probability")
    return TokenScore(token, own, top)


async def fetch_metrics(http: EngineHttp) -> VllmMetrics | None:
    """None when the server does not answer."""
    try:
        async with asyncio.timeout(POLL_TIMEOUT_S):
            status, text = await http.fetch("GET", "/metrics", max_bytes=MAX_METRICS_BYTES)
    except (HttpError, TimeoutError):
        return None
    return read_metrics(text.decode(errors="replace")) if status == 200 else None


async def attach_vllm(
    url: str,
    model: str,
    *,
    api_key: str = "",
    kv_events: str = "",
    parallel: int = 64,
    max_waiting: int = 64,
    context_tokens: int = 2048,
) -> VllmEngine:
    """Attach to the server at `url`, and to its events at the ZeroMQ endpoint `kv_events` if it
    is not empty. Raises `ConfigurationError`."""
    endpoint = endpoint_of(url, api_key)
    http = EngineHttp(endpoint, max_idle=parallel)
    try:
        name, length = await find_model(http, str(endpoint), model)
        metrics = await fetch_metrics(http)
        if metrics is None:
            raise ConfigurationError(f"{endpoint} has no metrics; is it vLLM?")
        upstream = Upstream(name, length or context_tokens, parallel, max_waiting)
    except BaseException:
        await http.close()
        raise
    engine = VllmEngine(http, upstream, metrics)
    try:
        if kv_events:
            engine._follow(kv_events)
    except ConfigurationError:
        await engine.close()
        raise
    engine._run(engine._poll(), "vllm metrics")
    return engine


async def start_vllm(settings: VllmSettings, max_waiting: int) -> VllmEngine:
    """Start a server and return when it answers. Raises `ConfigurationError`."""
    folder = make_socket_folder(Path(tempfile.gettempdir()))
    key = secrets.token_hex(32)
    http = EngineHttp(
        Endpoint(unix_socket=socket_in(folder), token=key), max_idle=settings.parallel
    )

    async def answers() -> bool:
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S):
                return (await http.fetch("GET", "/health", max_bytes=4096))[0] == 200
        except (HttpError, TimeoutError):
            return False

    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.push_async_callback(http.close)
        process = VllmProcess(settings, folder, key, answers)
        stack.push_async_callback(process.close)
        await process.start()
        name, length = await find_model(http, "vLLM ", settings.name)
        metrics = await fetch_metrics(http)
        context = length or settings.context_tokens
        upstream = Upstream(name, context, settings.parallel, max_waiting)
        engine = VllmEngine(http, upstream, metrics or VllmMetrics())
        engine._process = process
        engine._ours = stack.pop_all()
        engine._follow(events_endpoint(folder))
        engine._run(engine._poll(), "vllm metrics")
    return engine
