"""What a validator's `/metrics` shows of its ledger."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class LedgerMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.height = Gauge(
            "planetserve_ledger_height", "Last committed height.", registry=self.registry
        )
        self.transactions = Counter(
            "planetserve_ledger_transactions",
            "Transactions in blocks, by result code.",
            ["code"],
            registry=self.registry,
        )
        self.refused = Counter(
            "planetserve_ledger_refused",
            "Transactions that CheckTx kept out of the mempool, by result code.",
            ["code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "planetserve_ledger_request_seconds",
            "Time to answer CometBFT, by request.",
            ["request"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.settled = Counter(
            "planetserve_ledger_settled", "Node results settled.", registry=self.registry
        )
