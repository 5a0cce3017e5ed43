"""What a validator's `/metrics` shows of its ledger."""

from __future__ import annotations

from collections import Counter as Counted

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from abci_app.core.transition import BlockResult

SECONDS = (0.0003, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.25, 1.0, 3.0)


class LedgerMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.height = self._gauge("height", "Last committed height.")
        self.snapshot_height = self._gauge(
            "snapshot_height", "Height of the newest state-sync snapshot; 0 without one."
        )
        self.retain_height = self._gauge(
            "retain_height", "Blocks below this height may be deleted; 0 for none."
        )
        self.store_bytes = Gauge(
            "planetserve_ledger_store_bytes",
            "About how much of the disk a store's records take.",
            ["store"],
            registry=self.registry,
        )
        self.transactions = self._counter(
            "transactions", "Transactions in blocks, by result code.", "code"
        )
        self.refused = self._counter(
            "refused", "Transactions that CheckTx kept out of the mempool, by result code.", "code"
        )
        self.events = self._counter("events", "Events of blocks, by type.", "type")
        self.seconds = Histogram(
            "planetserve_ledger_request_seconds",
            "Time to answer CometBFT, by request.",
            ["request"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.housekeeping_seconds = Histogram(
            "planetserve_ledger_housekeeping_seconds",
            "Time of work beside consensus, by kind.",
            ["work"],
            buckets=(0.01, 0.1, 1.0, 10.0, 100.0),
            registry=self.registry,
        )
        self.housekeeping_failures = Counter(
            "planetserve_ledger_housekeeping_failures",
            "Work beside consensus that failed; the log says why.",
            registry=self.registry,
        )
        self.settled = Counter(
            "planetserve_ledger_settled", "Node results settled.", registry=self.registry
        )

    def count(self, result: BlockResult) -> None:
        """Count what a decided block did."""
        for code, count in Counted(item.code for item in result.results).items():
            self.transactions.labels(str(int(code))).inc(count)
        for kind, count in Counted(event.kind for event in result.events).items():
            self.events.labels(kind).inc(count)
        if result.settlement is not None:
            self.settled.inc(len(result.settlement.results))

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"planetserve_ledger_{name}", meaning, registry=self.registry)

    def _counter(self, name: str, meaning: str, label: str) -> Counter:
        return Counter(f"planetserve_ledger_{name}", meaning, [label], registry=self.registry)
