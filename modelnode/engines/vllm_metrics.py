"""What vLLM's `/metrics` says that serving needs to know.

Source: vLLM, `v1/metrics/loggers.py`; the text format of Prometheus. A server of several engines
has a line for each, which are added up.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

_LINE = re.compile(r"^(vllm:[a-z_]+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
QUERIES = "vllm:prefix_cache_queries_total"
HITS = "vllm:prefix_cache_hits_total"
KV_USAGE = "vllm:kv_cache_usage_perc"
CACHE = "vllm:cache_config_info"


@dataclass(frozen=True, slots=True)
class VllmMetrics:
    """Requests that run and wait in the server; prompt tokens that were looked up in the prefix
    cache and found there since its start; what part of the KV cache is in use, from 0 to 1; its
    block and its size in tokens, None where the server does not say."""

    running: int = 0
    waiting: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    kv_usage: float = 0.0
    block_tokens: int | None = None
    capacity_tokens: int | None = None


def read_metrics(text: str) -> VllmMetrics:
    """Lines that are wrong count as not there."""
    sums: defaultdict[str, float] = defaultdict(float)
    usages: list[float] = []
    block_tokens: int | None = None
    blocks = 0
    for name, labels, value in _LINE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        if not math.isfinite(number) or not 0 <= number < 1 << 53:
            continue
        sums[name] += number
        if name == KV_USAGE:
            usages.append(number)
        elif name == CACHE:
            told = dict(_LABEL.findall(labels))
            block_tokens = _positive(told.get("block_size", "")) or block_tokens
            blocks += _positive(told.get("num_gpu_blocks", ""))
    return VllmMetrics(
        running=int(sums[RUNNING]),
        waiting=int(sums[WAITING]),
        prefix_queries=int(sums[QUERIES]),
        prefix_hits=int(sums[HITS]),
        kv_usage=min(sum(usages) / len(usages), 1.0) if usages else 0.0,
        block_tokens=block_tokens,
        capacity_tokens=block_tokens * blocks if block_tokens and blocks else None,
    )


def _positive(text: str) -> int:
    """0 for what is no number, or no number of blocks."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
