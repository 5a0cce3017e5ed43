"""What a model node counts. No label names a peer, a client or a path."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "planetserve_model_requests",
    "Requests that came to this node as their entry, by how they ended",
    ["outcome"],
)
SERVED = Counter(
    "planetserve_model_served",
    "Requests that this node's engine was given, by how they ended",
    ["outcome"],
)
FORWARDED = Counter("planetserve_model_forwarded", "Requests sent on to another node of the group")
RETRIED = Counter("planetserve_model_retried", "Requests moved to another node before any text")
RESUMED = Counter(
    "planetserve_model_resumed", "Requests answered anew by another node after some text"
)
TOKENS = Counter("planetserve_model_tokens", "Tokens of served requests, by kind", ["kind"])
FIRST_TEXT_S = Histogram(
    "planetserve_model_first_text_seconds",
    "From a request's arrival at the engine to its first text",
    buckets=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2),
)
RUNNING = Gauge("planetserve_model_running", "Requests in the engine now")
WAITING = Gauge("planetserve_model_waiting", "Requests in line for the engine now")
PEERS = Gauge(
    "planetserve_model_peers",
    "Other trusted nodes of the group, by whether they answer: alive or silent",
    ["state"],
)
RESTARTS = Counter(
    "planetserve_model_restarts", "Times that another node of the group was a new process"
)
BREAKERS_OPENED = Counter(
    "planetserve_model_breakers_opened", "Times that a node was given no requests for a pause"
)
GOSSIP_BYTES = Counter(
    "planetserve_model_gossip_bytes", "Sent to peers about the caches of the group"
)
GROUP_DROPPED = Counter(
    "planetserve_model_group_dropped", "Group messages that were refused, by cause", ["cause"]
)
ENGINE_KV_USAGE = Gauge(
    "planetserve_model_engine_kv_usage", "Part of vLLM's KV cache that is in use, 0 to 1"
)
ENGINE_PREFIX_TOKENS = Gauge(
    "planetserve_model_engine_prefix_tokens",
    "Prompt tokens since vLLM's start that were looked up in its prefix cache, or found there",
    ["kind"],
)
ENGINE_STARTS = Gauge("planetserve_model_engine_starts", "How often vLLM was started by this node")
