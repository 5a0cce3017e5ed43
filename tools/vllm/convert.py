"""Make the folder that vLLM loads from a GGUF file: python convert.py FILE FOLDER.

Runs in vLLM's environment. The weights become what the file's quantization says they are, in
bfloat16: the model that llama.cpp runs, not the one that it was quantized from.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path


def convert(file: Path, folder: Path) -> None:
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    loaded = transformers.LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # What was loaded from GGUF refuses to be saved and calls itself quantized, so a fresh model
    # takes over its weights.
    fields = loaded.config.to_dict()
    fields.pop("quantization_config", None)
    fresh = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    fresh.load_state_dict(loaded.state_dict())
    making = folder.with_suffix(".part")
    shutil.rmtree(making, ignore_errors=True)
    fresh.to(torch.bfloat16).save_pretrained(making)
    tokenizer.save_pretrained(making)
    shutil.rmtree(folder, ignore_errors=True)
    making.rename(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
