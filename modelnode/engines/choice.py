"""Which engine a node runs, from its command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from modelnode.engines.default_model import DEFAULT_MODEL_NAME, default_model_path
from modelnode.engines.llamacpp import LlamaCppSettings, load_llamacpp
from modelnode.engines.openai_http import attach_openai
from modelnode.engines.protocol import Engine
from modelnode.engines.vllm import attach_vllm, start_vllm
from modelnode.engines.vllm_place import find_python
from modelnode.engines.vllm_process import VllmSettings, check_options
from planetserve.errors import UsageError


class EngineKind(StrEnum):
    llamacpp = "llamacpp"
    openai = "openai"
    vllm = "vllm"


PARALLEL = {EngineKind.llamacpp: 2, EngineKind.openai: 64, EngineKind.vllm: 32}
"""Requests at once, where nobody says how many."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the command line says; empty or None is what it does not. `model` is the name in the
    network, for vLLM also the folder or the hub's name of the model; `passed_on` are options of
    vLLM's own."""

    kind: EngineKind = EngineKind.llamacpp
    model: str = ""
    model_path: Path | None = None
    url: str = ""
    key: str = ""
    threads: int = 2
    parallel: int | None = None
    context_tokens: int = 2048
    max_waiting: int = 16
    vllm_python: Path | None = None
    vllm_log: Path = Path("vllm.log")
    kv_events: str = ""
    passed_on: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the network calls the model."""
        if self.kind is EngineKind.vllm and not self.model_path and Path(self.model).is_dir():
            return Path(self.model).resolve().name
        return self.model or DEFAULT_MODEL_NAME

    def check(self) -> None:
        """Raises `UsageError` for options that do not go together, `ConfigurationError` when
        there is no vLLM to run."""
        spawns = self.kind is EngineKind.vllm and not self.url
        if self.kind is EngineKind.openai and not (self.url and self.model):
            raise UsageError("--engine openai needs --engine-url URL and --model NAME")
        if self.kind is EngineKind.vllm and not self.model:
            raise UsageError("--engine vllm needs --model, a folder or the name of a model")
        if self.kind is EngineKind.llamacpp and self.url:
            raise UsageError("--engine-url needs --engine openai or --engine vllm")
        if self.model_path is not None and not self.model:
            raise UsageError(
                "--model-path needs --model NAME, the name that the network knows it by"
            )
        if self.passed_on and not spawns:
            raise UsageError(f"{self.passed_on[0]}: only a vLLM that ps-model starts takes options")
        if self.kv_events and (spawns or self.kind is not EngineKind.vllm):
            raise UsageError("--kv-events is for --engine vllm with --engine-url")
        check_options(self.passed_on)
        if spawns:
            find_python(self.vllm_python)

    async def load(self) -> Engine:
        """Raises `ConfigurationError` when it cannot be loaded or reached."""
        parallel = self.parallel or PARALLEL[self.kind]
        if self.kind is EngineKind.llamacpp:
            path = self.model_path or default_model_path()
            return await load_llamacpp(
                LlamaCppSettings(
                    path, self.threads, parallel, self.context_tokens, self.max_waiting
                )
            )
        if self.kind is EngineKind.openai:
            return await attach_openai(
                self.url,
                self.model,
                api_key=self.key,
                parallel=parallel,
                max_waiting=self.max_waiting,
                context_tokens=self.context_tokens,
            )
        if self.url:
            return await attach_vllm(
                self.url,
                self.model,
                api_key=self.key,
                kv_events=self.kv_events,
                parallel=parallel,
                max_waiting=self.max_waiting,
                context_tokens=self.context_tokens,
            )
        settings = VllmSettings(
            python=find_python(self.vllm_python),
            model=str(self.model_path or self.model),
            name=self.name,
            log_file=self.vllm_log,
            parallel=parallel,
            context_tokens=self.context_tokens,
            options=self.passed_on,
        )
        return await start_vllm(settings, self.max_waiting)
