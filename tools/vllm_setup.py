"""Put vLLM in place in an environment of its own: `make vllm`, after `make setup`.

vLLM for CPUs goes into `.vllm`, from a lock file, and the default model, made into what vLLM
loads, into `.vllm/models`. Each step is skipped while its stamp matches what it was made from.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setup import LOCKS, ROOT, UV, VENV, Step, execute, run, run_uv

from modelnode.engines.default_model import DEFAULT_MODEL_NAME, default_model_path

VLLM = ROOT / ".vllm"
PYTHON = VLLM / "bin" / "python"
MODEL = VLLM / "models" / DEFAULT_MODEL_NAME
LOCK = ROOT / "tools" / "vllm" / "requirements.lock"
CONVERT = ROOT / "tools" / "vllm" / "convert.py"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def install_vllm(log: Path) -> str:
    execute(log, [str(UV), "venv", "--clear", "--python", str(VENV), str(VLLM)], "")
    run_uv(log, VLLM, "sync", "--require-hashes", str(LOCK))
    count = sum(line[0].isalnum() for line in LOCK.read_text().splitlines())
    return f"vLLM for CPUs from {count} locked lines"


def convert_model(log: Path) -> str:
    MODEL.parent.mkdir(exist_ok=True)
    execute(log, [str(PYTHON), str(CONVERT), str(default_model_path()), str(MODEL)], "", OFFLINE)
    return f"{DEFAULT_MODEL_NAME} as vLLM loads it"


def main() -> int:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stamps = VLLM / "stamps"
    install = Step("vllm", install_vllm, PYTHON, stamps / "vllm", (LOCK,), (version,))
    inputs = (CONVERT, LOCK, LOCKS[1])
    model = Step("model", convert_model, MODEL / "config.json", stamps / "model", inputs)
    return run([[install], [model]])


if __name__ == "__main__":
    sys.exit(main())
