# `make` alone lists what there is.
SHELL := /bin/bash
BIN := .venv/bin
# The first that answers and is of the right version: a name on PATH may be a shim that fails.
ifndef PYTHON
PYTHON := $(shell for name in .venv/bin/python python3.12 python3.11 python3 /usr/bin/python3; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$name && break; done)
endif

.DEFAULT_GOAL := help
.PHONY: help setup vllm localnet test test-vllm test-long lint bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## put the environment in place: .venv, CometBFT, protobuf modules
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found. Install one, for example:" \
		"apt-get install python3.11 python3.11-venv; or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) tools/setup.py

vllm: setup ## put vLLM for CPUs in place, in .vllm
	@$(BIN)/python tools/vllm_setup.py

localnet: setup ## run a whole network on this machine; Ctrl-C ends it
	@$(BIN)/ps-localnet up

test: setup ## run every test but the long ones
	@$(PYTHON) tools/setup.py ics23
	$(BIN)/python -m pytest -m "not long and not vllm"

test-vllm: vllm ## run the tests that need vLLM
	$(BIN)/python -m pytest -m vllm

test-long: setup ## run the tests that take minutes each
	$(BIN)/python -m pytest -m long

lint: setup ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## measure; `.venv/bin/python -m bench NAME` runs one benchmark
	$(BIN)/python -m bench

lock: setup ## compute requirements.lock again from pyproject.toml, and vLLM's
	.tools/uv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock
	.tools/uv/bin/uv pip compile tools/vllm/requirements.in --override tools/vllm/overrides.txt \
		--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --quiet -o tools/vllm/requirements.lock

clean: ## remove all that the other targets made
	@if [ -x $(BIN)/ps-localnet ]; then $(BIN)/ps-localnet status >/dev/null 2>&1; \
		if [ $$? -le 1 ]; then echo "error: a localnet runs here; end it first:" \
		"$(BIN)/ps-localnet down" >&2; exit 1; fi; fi
	rm -rf .venv .vllm .tools .localnet abci_app/proto dist build .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
