"""Where vLLM is on this machine, and the default model as vLLM loads it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from modelnode.engines.default_model import DEFAULT_MODEL_NAME
from planetserve.errors import ConfigurationError

FOLDER = ".vllm"
"""What `make vllm` makes."""


def find_python(named: Path | None) -> Path:
    """The interpreter that has vLLM: `named`, else that of `.vllm` beside the virtual environment
    or the sources, else ours. Raises `ConfigurationError` when none has."""
    if named is not None:
        if not os.access(named, os.X_OK):
            raise ConfigurationError(f"--vllm-python {named} is no program")
        return named.absolute()
    for base in _bases():
        python = base / FOLDER / "bin" / "python"
        if python.exists():
            return python
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    raise ConfigurationError(
        "there is no vLLM here; run `make vllm` (for CPUs), or install the package vllm into an "
        "environment of its own and name its interpreter with --vllm-python"
    )


def vllm_model_path() -> Path:
    """The folder of the default model. Raises `ConfigurationError` saying how to make it."""
    for base in _bases():
        folder = base / FOLDER / "models" / DEFAULT_MODEL_NAME
        if (folder / "config.json").exists():
            return folder
    raise ConfigurationError(f"vLLM and {DEFAULT_MODEL_NAME} for it are not here; run: make vllm")


def _bases() -> tuple[Path, ...]:
    return Path(sys.prefix).parent, Path(__file__).resolve().parents[2]
