"""llama.cpp in this process, through `xllamacpp`.

The binding's server runs its own threads and hands every chunk of a reply to a callback on the
thread that asked, so each running request has a thread here. The callback waits when the reader
is slow and returns True to cancel. Beside it the server listens for HTTP, which cannot be turned
off; it is put on a socket in a folder only we can enter, where it counts tokens for us.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xllamacpp

from modelnode.core.speeds import Speeds
from modelnode.engines.admission import Admission
from modelnode.engines.http_client import Endpoint, EngineHttp
from modelnode.engines.private_folder import make_socket_folder
from modelnode.engines.protocol import (
    CANCELLED,
    LENGTH,
    STOP,
    EngineStats,
    NotOffered,
    Piece,
    TokenScore,
)
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError
from planetserve.http import HttpError
from planetserve.messages import Usage

HAND_OVER_PIECES = 32
"""How far a request's thread may run ahead of its reader."""
MAX_ANSWER_BYTES = 16 << 20
"""A prompt as long as a body may be, written out by its template, or its tokens."""


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    """`parallel` requests run at once, each with `context_tokens`; `cache_mib` bounds the memory
    for prompts kept after their slot was taken over."""

    model_path: Path
    threads: int = 2
    parallel: int = 2
    context_tokens: int = 2048
    max_waiting: int = 16
    cache_mib: int = 128


class LlamaCppEngine:
    """Make it with `load_llamacpp`, in the event loop that will use it."""

    def __init__(self, settings: LlamaCppSettings, server: Any, folder: Path) -> None:
        self._settings = settings
        self._server = server
        self._folder = folder
        self._admission = Admission(settings.parallel, settings.max_waiting)
        self._threads = ThreadPoolExecutor(settings.parallel, thread_name_prefix="llama")
        self._running: set[_Reply] = set()
        self._cached_tokens = 0
        self._speeds = Speeds()
        self._closed = False
        # A kept connection would keep the server's one thread for HTTP.
        self._http = EngineHttp(Endpoint(unix_socket=_socket_in(folder)), max_idle=0)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        self._refuse_when_closed()
        await self._admission.enter()
        try:
            self._refuse_when_closed()
            reply = _Reply(asyncio.get_running_loop(), self._speeds)
            done = self._threads.submit(self._run, request, reply)
        except BaseException:
            self._admission.leave()
            raise
        self._running.add(reply)
        # The slot is free when the thread is out of the engine, not when the reader goes.
        asyncio.wrap_future(done).add_done_callback(lambda _: self._left(reply))
        try:
            while True:
                piece = await reply.next()
                if piece.usage is not None:
                    self._cached_tokens += piece.usage.cached_tokens
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            reply.cancel()

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return len(await self.token_ids(messages))

    async def token_ids(self, messages: Sequence[Message]) -> Sequence[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        prompt = await self._ask("/apply-template", {"messages": turns}, "prompt")
        options = {"content": prompt, "add_special": True, "parse_special": True}
        tokens: list[int] = await self._ask("/tokenize", options, "tokens")
        return tokens

    async def score(self, messages: Sequence[Message], reply: str) -> Sequence[TokenScore]:
        raise NotOffered("llama.cpp gives no probabilities of a given reply")

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self._admission.running,
            waiting=self._admission.waiting,
            capacity=self._settings.parallel,
            max_waiting=self._settings.max_waiting,
            cached_tokens=self._cached_tokens,
            context_tokens=self._settings.context_tokens,
            prefill_us_per_token=self._speeds.prefill_us_per_token,
            decode_ms_per_token=self._speeds.decode_ms_per_token,
            hold_ms=self._admission.hold_ms,
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for reply in tuple(self._running):
            reply.cancel()
        await self._http.close()
        await asyncio.to_thread(self._threads.shutdown, wait=True)
        # Dropping the last reference stops the server's threads and frees the model.
        await asyncio.to_thread(self.__dict__.pop, "_server")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineError("not_serving", "the engine is closed")

    async def _ask(self, target: str, body: dict[str, Any], wanted: str) -> Any:
        try:
            status, answer = await self._http.fetch(
                "POST", target, json.dumps(body).encode(), max_bytes=MAX_ANSWER_BYTES
            )
            if status == 200:
                return json.loads(answer)[wanted]
        except (HttpError, KeyError, ValueError) as error:
            raise EngineError("engine_failed", "llama.cpp did not cut the prompt") from error
        raise EngineError("engine_failed", f"llama.cpp did not cut the prompt: {status}")

    def _left(self, reply: _Reply) -> None:
        self._running.discard(reply)
        self._admission.leave()

    def _run(self, request: ChatRequest, reply: _Reply) -> None:
        """On a thread of its own: have the server answer and pass on what it says."""
        body = request.to_json() | {"stream": True, "stream_options": {"include_usage": True}}
        body.pop("model")
        try:
            self._server.handle_chat_completions(body, reply.receive)
        except ValueError as error:
            reply.fail(EngineError("bad_request", f"llama.cpp refused the request: {error}"))
        except Exception as error:
            # The binding raises what the C++ side threw; a thread has nobody else to tell.
            failure = EngineError("engine_failed", f"llama.cpp failed: {type(error).__name__}")
            failure.__cause__ = error
            reply.fail(failure)
        else:
            reply.end()


class _Reply:
    """One reply between the engine's thread and the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, speeds: Speeds) -> None:
        self._loop = loop
        self._speeds = speeds
        self._arrived: asyncio.Queue[Piece | EngineError] = asyncio.Queue()
        self._room = threading.Semaphore(HAND_OVER_PIECES)
        self._cancelled = threading.Event()
        self._finish_reason: str | None = None
        self._ended = False

    async def next(self) -> Piece:
        item = await self._arrived.get()
        self._room.release()
        if isinstance(item, EngineError):
            raise item
        return item

    def cancel(self) -> None:
        self._cancelled.set()
        self._room.release()

    def receive(self, chunk: Any) -> bool:
        """The server's callback; True cancels the request."""
        if "error" in chunk:
            self.fail(_engine_error(chunk["error"]))
            return True
        for choice in chunk["choices"]:
            self._finish_reason = choice["finish_reason"] or self._finish_reason
            text = choice["delta"].get("content")
            if text:
                self._put(Piece(text))
        if "usage" in chunk and self._finish_reason is not None:
            if "timings" in chunk:
                self._loop.call_soon_threadsafe(self._measure, chunk["timings"])
            self._finish(chunk["usage"])
        return self._cancelled.is_set()

    def fail(self, error: EngineError) -> None:
        if not self._ended:
            self._ended = True
            self._put(error)

    def end(self) -> None:
        """The server is done; when it never said why, it was cancelled."""
        if self._ended:
            return
        self._ended = True
        if self._cancelled.is_set():
            self._put(Piece("", CANCELLED, Usage(0, 0)))
        else:
            self._put(EngineError("engine_failed", "llama.cpp ended the reply without a reason"))

    def _measure(self, timings: Any) -> None:
        """llama.cpp times its own work: what waits for a slot or a reader is not in it."""
        self._speeds.prefilled(timings["prompt_n"], timings["prompt_ms"])
        self._speeds.decoded(timings["predicted_n"] - 1, timings["predicted_ms"])

    def _finish(self, usage: Any) -> None:
        self._ended = True
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        counts = Usage(usage["prompt_tokens"], usage["completion_tokens"], cached)
        self._put(Piece("", LENGTH if self._finish_reason == LENGTH else STOP, counts))

    def _put(self, item: Piece | EngineError) -> None:
        if not self._cancelled.is_set():
            self._room.acquire()
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)


async def load_llamacpp(settings: LlamaCppSettings) -> LlamaCppEngine:
    """Load the model on a thread. Raises `ConfigurationError` when llama.cpp cannot."""
    if not settings.model_path.is_file():
        raise ConfigurationError(f"there is no model file {settings.model_path}")
    folder = make_socket_folder(Path(tempfile.gettempdir()))
    try:
        server = await asyncio.to_thread(_start_server, settings, folder)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigurationError(f"llama.cpp cannot load {settings.model_path}: {error}") from error
    return LlamaCppEngine(settings, server, folder)


def _start_server(settings: LlamaCppSettings, folder: Path) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(settings.model_path)
    params.n_ctx = settings.context_tokens * settings.parallel
    params.n_parallel = settings.parallel
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.cache_ram_mib = settings.cache_mib
    params.hostnames = [str(_socket_in(folder))]
    params.n_threads_http = 1
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = -1
    return xllamacpp.Server(params)


def _socket_in(folder: Path) -> Path:
    return folder / "llama.sock"


def _engine_error(error: Any) -> EngineError:
    if error.get("type") == "exceed_context_size_error":
        return EngineError(
            "context_length",
            f"the prompt has {error.get('n_prompt_tokens')} tokens, more than the context of "
            f"{error.get('n_ctx')}; send fewer or shorter messages",
        )
    if error.get("type") == "invalid_request_error":
        return EngineError("bad_request", str(error.get("message", "")))
    return EngineError("engine_failed", "llama.cpp failed to answer")
