"""Run a benchmark by name; exits 1 when a figure misses its limit."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

BENCHMARKS = {
    "ledger": "transactions per second beside the kvstore example; blocks, settlement, proofs",
    "routing": "eight entries that act as one cache, beside central routers",
    "overlay": "answers through the overlay beside the engine alone; answers while relays die",
    "first-hour": "set-up of a network, the first answer, memory",
    "forwarding": "chat completions a second of one model node, and of a pair that forwards",
    "hrtree": "the HR-tree and its sync: time a chunk, memory, bytes a request, convergence",
    "relay": "relays beside a bare pyzmq chain: cells, delay, set-up, thousands of paths",
    "sida": "splitting and combining messages beside the primitives they are made of",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        epilog="\n".join(f"{name:<12} {what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="?", choices=sorted(BENCHMARKS), help="which one; all of them in turn else"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    met = True
    for name in [arguments.name] if arguments.name else sorted(BENCHMARKS):
        report = importlib.import_module(f"bench.{name.replace('-', '_')}").run()
        print(json.dumps(report.to_json(), indent=2) if arguments.json else report.to_text())
        met = met and report.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
