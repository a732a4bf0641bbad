# stepstream: every task of a developer, a line each in `make help`.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
TOOLS  ?= .tools
SEED   ?= 1
# Arguments for pytest, for instance: make test ARGS="-k lease -x"
ARGS   ?=

BIN     := $(VENV)/bin
# The quick suites share the cores; those with processes and deadlines of their own have them alone.
PYTEST  = $(if $(ARGS),$(BIN)/pytest -rs $(ARGS),\
            $(BIN)/pytest -rs -n 4 $(QUICK) tests/unit tests/meta tests/contract && \
            $(BIN)/pytest -rs $(QUICK) tests/integration tests/interop)
# `make test` leaves out what takes a minute of real time: outages, kills. The other targets run it.
QUICK   = -m "not slow"
# Servers are started while gRPC runs; without this it says at each fork that it leaves it alone.
BENCH   = GRPC_VERBOSITY=ERROR $(BIN)/python -m bench.run
PIP     := -m pip --disable-pip-version-check
PACKAGES := clients/python/stepstream dispatcher/stepstream_dispatcher worker/stepstream_worker
TYPED   := $(PACKAGES) tests/support tests/chaos tests/mutants tests/soak tools/generate.py $(if $(wildcard bench/*.py),bench) $(wildcard tests/typing)

.PHONY: help setup demo dev start dev-parallel start-parallel load bench bench-check bench-peers test test-parallel test-all chaos chaos-long mutants soak cycles \
        check format lint types layers gen gen-check protos lock lock-check fix clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-15s\033[0m %s\n", $$1, $$2}' \
	  $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.dev ## Install everything that development needs into .venv
	@echo "ready: $(BIN)/stepstream"

demo: $(VENV)/.run ## Translate the sample documents with two workers and an embedded Valkey
	@$(BIN)/stepstream demo

dev: $(VENV)/.run ## Run in synchronous mode, without Redis, on data in .stepstream/dev
	@USE_PARALLEL_PROCESSING=false $(BIN)/stepstream start --data-dir .stepstream/dev

start: $(VENV)/.run ## Run in synchronous mode, without Redis, on data in .stepstream/data
	@USE_PARALLEL_PROCESSING=false $(BIN)/stepstream start

dev-parallel: $(VENV)/.run ## Run dispatcher and workers on an embedded Valkey
	@$(BIN)/stepstream start --embedded-redis

start-parallel: $(VENV)/.run ## Run dispatcher and workers on the Redis at REDIS_URL
	@$(BIN)/stepstream start

load: $(VENV)/.dev ## Measure throughput, parallel speed-up and memory per task
	@$(BIN)/python -m bench.load

bench: $(VENV)/.dev ## Measure everything in interleaved rounds; ARGS="--only limit throughput --rounds 3" takes parts
	@$(BENCH) $(ARGS)

bench-check: $(VENV)/.dev ## Fail if a ratio of bench/thresholds.toml has got worse
	@$(BENCH) --check $(ARGS)

bench-peers: $(VENV)/.dev ## Measure other queues and ours in turns: ROUNDS=5 TASKS=10000 PEERS="saq huey" MEASURES=noop KILL=1
	@$(BIN)/python -m bench.peers $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(TASKS),--tasks $(TASKS)) \
	  $(if $(PEERS),--peers "$(PEERS)") $(if $(MEASURES),--measures "$(MEASURES)") $(if $(KILL),--kill)

soak: $(VENV)/.dev ## Load real processes for MINUTES (30), and fail if anything of them grows
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30)

cycles: $(VENV)/.dev ## Open and cut thousands of streams, and fail if the dispatcher grows
	@$(BIN)/python -m tests.soak.cycles

test: $(VENV)/.dev ## Run the tests but the slow ones; what needs a missing tool is skipped and says so
	@$(PYTEST)

test-parallel: $(VENV)/.dev ## Run the tests of the whole system: Redis and several processes
	@$(BIN)/pytest -rs -m parallel $(ARGS)

test-all: $(VENV)/.dev ## Run every test; a missing tool is a failure
	@export STEPSTREAM_TEST_ALL=1; $(PYTEST)

test-all: QUICK =

mutants: $(VENV)/.dev ## Plant each seeded bug and see the tests catch it; ARGS="name ..." takes these alone
	@$(BIN)/python -m tests.mutants $(ARGS)

chaos: $(VENV)/.dev ## Break a real system in every way at once and count what is lost: SEED=1
	@$(BIN)/python -m tests.chaos --seed $(SEED)

chaos-long: $(VENV)/.dev ## The same with more tasks, for longer: SEED=1 MINUTES=10
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(or $(MINUTES),10)

check: format lint types layers gen-check protos lock-check ## Check format, lint, types, layers, generated code, protos

format: $(VENV)/.dev
	@echo "── format"; $(BIN)/ruff format --check .

lint: $(VENV)/.dev
	@echo "── lint"; $(BIN)/ruff check .

types: $(VENV)/.dev
	@echo "── types"; $(BIN)/mypy $(TYPED)

layers: $(VENV)/.dev
	@echo "── layers"; $(BIN)/lint-imports

gen: $(TOOLS)/.ready $(VENV)/.dev ## Generate the Python code of protos/, and the generated pages
	@$(TOOLS)/bin/python tools/generate.py
	@$(BIN)/python tools/gen_protocol.py; $(BIN)/python tools/draw_life.py

gen-check: $(TOOLS)/.ready $(VENV)/.dev
	@echo "── generated code"; $(TOOLS)/bin/python tools/generate.py --check; \
	  $(BIN)/python tools/gen_protocol.py --check; $(BIN)/python tools/draw_life.py --check

protos: $(VENV)/.dev
	@echo "── protos"; $(BIN)/buf lint; $(BIN)/buf format --diff --exit-code; \
	  BUF=$(BIN)/buf tools/check-breaking

fix: $(VENV)/.dev ## Format, and mend what lint can mend by itself
	@$(BIN)/ruff format .; $(BIN)/ruff check --fix .; $(BIN)/buf format --write

lock: $(TOOLS)/.ready ## Resolve the dependencies again and write requirements/*.txt
	@UV=$(TOOLS)/bin/uv tools/lock

lock-check: $(VENV)/.dev
	@echo "── lock files"; $(BIN)/pytest -q tests/meta/test_lock_files.py

clean: ## Remove environments, caches and run-time data of this directory
	rm -rf .venv .venv-* $(TOOLS) data .stepstream build dist htmlcov .coverage .coverage.* \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ── environments ─────────────────────────────────────────────────────────────────────────────────
# A stamp file says which lock file an environment was installed from. The development set contains
# the run-time set at the same versions, so that a full environment serves `make demo` as it is.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	@if [ ! -e $(VENV)/.dev ] || [ requirements/dev.txt -nt $(VENV)/.dev ]; then \
	  echo "installing requirements/run.txt"; \
	  $(BIN)/python $(PIP) install -q --require-hashes --only-binary :all: -r requirements/run.txt; fi
	@$(BIN)/python $(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing requirements/dev.txt"
	@$(BIN)/python $(PIP) install -q --require-hashes --only-binary :all: -r requirements/dev.txt
	@$(BIN)/python $(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

$(TOOLS)/.ready: requirements/tools.txt
	@echo "installing requirements/tools.txt"
	@[ -x $(TOOLS)/bin/python ] || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip --version >/dev/null 2>&1 || $(TOOLS)/bin/python -m ensurepip >/dev/null
	@$(TOOLS)/bin/python $(PIP) install -q --require-hashes --only-binary :all: -r requirements/tools.txt
	@touch $@
