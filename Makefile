# Everything a contributor runs. Each target sets up what it needs: a virtual environment in .venv, nothing global.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check format lock bench chaos promise clean

help: ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

$(READY): pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit("media-callbacks needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## run the whole service on this machine and show typed events
	@$(BIN)/media-callbacks demo

test: $(READY) ## run all tests
	$(BIN)/python -m pytest -n auto

check: $(READY) ## format, lint, types, import contract, tests with branch coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n auto --cov --cov-report=
	$(BIN)/coverage report --fail-under=$(COVERAGE)

# Branch coverage that a change may not fall below.
COVERAGE := 95

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure accepting, delivering, isolation and both stores, each against its yardstick in one run
	$(BIN)/python -m tests.bench

chaos: $(READY) ## break everything under load, ten times, and look for what was lost or came twice
	$(BIN)/python -m tests.chaos --seeds 10 --jobs 2000 --rate 100

promise: $(READY) ## register twenty thousand jobs, let everything go wrong, and compare with the truth
	$(BIN)/python -m tests.promise

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate pyproject.toml

lock: $(READY) ## renew the locked dependencies
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --all-extras -o requirements.lock
	$(LOCK) --group dev -o requirements-dev.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
