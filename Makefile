# Everything that a contributor runs. Each target sets up what it needs inside the checkout, nothing global: uv in .uv (pinned and
# hashed in requirements/tools.txt), Python packages in .venv as uv.lock says. Repeating a target, interrupting it, and moving
# or copying the checkout do no harm.

PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
# The certificates that this machine trusts, as pip does; only Pythons that are there; a lock that does not fit is an error.
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV

.DEFAULT_GOAL := help
.NOTPARALLEL:
# Of bench: `make bench delivery` measures that one alone.
PARTS := parse accept latency delivery buses isolation backlog postgresql profile flat migrate
.PHONY: help runtime environment demo test check lint coverage check-lowest format reference screenshots site lock export dist bench $(PARTS) chaos hostile promise simulate mutants clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

# Moved into place when it is whole. pip's own --target works where the system's Python may not be installed into, and
# where pip is missing a virtual environment may still bring one.
$(UV): requirements/tools.txt
	@$(PYTHON) -c 'import sys; sys.exit("media-callbacks needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo "fetching uv"
	@rm -rf .uv .uv.part
	@if $(PYTHON) -m pip --version >/dev/null 2>&1; then pip="$(PYTHON) -m pip"; \
	elif $(PYTHON) -m venv .uv.part/pip >/dev/null 2>&1; then pip=".uv.part/pip/bin/python -m pip"; \
	else echo "make needs pip or venv beside $(PYTHON); on Debian: apt-get install python3-venv" >&2; exit 1; fi; \
	$$pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --only-binary :all: --require-hashes --target .uv.part -r $<
	@rm -rf .uv.part/pip; mv .uv.part .uv; touch $@

# A virtual environment whose Python has gone, or whose last synchronisation was interrupted, is made anew.
define synchronise
@if [ -e .venv/.unfinished ] || ! $(BIN)/python -c '' 2>/dev/null; then rm -rf .venv; $(UV) venv --quiet --relocatable --no-project --python $(PYTHON) .venv; fi
@touch .venv/.unfinished
@$(UV) sync --locked $(1)
@rm .venv/.unfinished
endef

runtime: $(UV)
	$(call synchronise,--no-dev --inexact --extra server)

environment: $(UV)
	$(call synchronise,--all-extras)

demo: $(if $(BUS),environment,runtime) ## run the whole service on this machine and show typed events; BUS=kafka, nats or rabbitmq sends them there, too
	@$(if $(BUS),$(BIN)/python -m tests.exercises.demo $(BUS),$(BIN)/media-callbacks demo)

test: environment ## run all tests
	@rm -f .coverage .coverage.*
	$(BIN)/pytest -n auto --cov --cov-report=

check: lint test coverage ## format, lint, types, import contract, tests with branch coverage

lint: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

coverage: # of the last `make test`
	$(BIN)/coverage report --fail-under=$(COVERAGE)

# Branch coverage that a change may not fall below.
COVERAGE := 95

# The lowest versions that pyproject.toml allows are installed beside, and the tests that start the service run with them.
LOWEST := .venv-lowest
check-lowest: $(UV) ## run the tests that start the service with the oldest dependencies that are allowed
	$(UV) pip compile --quiet --no-header --no-annotate --resolution lowest-direct --all-extras pyproject.toml -o $(LOWEST).txt
	rm -rf $(LOWEST)
	$(UV) venv --quiet --no-project --python $(PYTHON) $(LOWEST)
	$(UV) pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST).txt -e . --group dev
	@$(UV) pip freeze --quiet --python $(LOWEST)/bin/python --exclude-editable | sort > $(LOWEST)/installed.txt
	$(LOWEST)/bin/python -m pytest -p no:anyio -n auto -m "not slow" -k "not TestPostgresql or TestPostgresqlInbox" $(STARTING)

# Tests that start the service, or a part of it with what it needs of others: sockets, PostgreSQL, AWS, the vendor. What
# is asked of PostgreSQL beside its driver is left out: it is the same with each.
STARTING := tests/test_end_to_end.py tests/test_distribution.py tests/test_app.py tests/process/test_server.py \
	tests/edge/test_edge.py tests/observe/test_metrics.py tests/sinks tests/aliyun tests/inbox/test_postgresql.py \
	tests/commands/test_check.py tests/page/test_page.py tests/test_traces.py

format: environment ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: environment ## write what docs/reference/ has from the code
	$(BIN)/python -m tests.reference

screenshots: environment ## take the pictures of docs/images, with Debian's chromium
	$(BIN)/python -m tests.page.screenshots

# Of what is not ignored: the secrets of a deployment may lie in deploy/.
SITE_FILES := '*.md' docs/images LICENSE Dockerfile clients deploy schemas service/media_callbacks/sinks/base.py ':!tests'
site: $(UV) ## build the documentation as a site in .site/html, with every link checked
	rm -rf .site
	mkdir -p .site/source
	git ls-files --cached --others --exclude-standard -z -- $(SITE_FILES) | tar --null -T - -cf - | tar -xf - -C .site/source
	$(UV) run --quiet --isolated --locked --only-group site zensical build --strict

lock: $(UV) ## renew the locked dependencies, and what is exported from them
	$(UV) lock --upgrade
	@$(MAKE) --no-print-directory export

EXPORT := $(UV) export --quiet --locked --no-emit-project --no-annotate --no-header
export: $(UV) ## write from uv.lock what a container or a plain pip needs
	$(EXPORT) --no-dev --all-extras --output-file requirements/service.txt
	$(EXPORT) --only-group tools --output-file requirements/tools.txt

dist: $(UV) ## build and check the release: sdist, wheel, SBOM; run the demo from the wheel alone
	rm -rf dist
	$(UV) build --quiet
	$(UV) run --quiet --isolated --locked --only-group release twine check --strict dist/*.whl dist/*.tar.gz
	$(UV) export --quiet --locked --no-dev --all-extras --preview-features sbom-export --format cyclonedx1.5 --output-file dist/media-callbacks.cdx.json
	$(UV) venv --quiet --no-project --python $(PYTHON) dist/.try
	$(UV) pip install --quiet --python dist/.try/bin/python --constraints requirements/service.txt dist/*.whl
	dist/.try/bin/python tests/client/application.py
	$(UV) pip install --quiet --python dist/.try/bin/python --constraints requirements/service.txt "$$(ls dist/*.whl)[server]"
	cd dist && .try/bin/media-callbacks demo
	rm -rf dist/.try
	@ls -l dist

bench: environment ## measure accepting, delivering, isolation and both stores, each against its yardstick in one run; `make bench delivery BUS=kafka` a part of it
	$(BIN)/python -m tests.exercises.bench $(filter $(PARTS),$(MAKECMDGOALS)) $(addprefix --bus ,$(BUS))

$(PARTS): bench
	@:

chaos: environment ## break everything under load, ten times, and look for what was lost or came twice
	$(BIN)/python -m tests.exercises.chaos --seeds 10 --jobs 2000 --rate 100

hostile: environment ## attack a running service as strangers would, in full, beside genuine callbacks; a million fuzzed requests
	$(BIN)/python -m tests.exercises.hostile
	$(BIN)/python -m tests.exercises.hostile.fuzzing
	HOSTILE=long $(BIN)/pytest -n 1 tests/exercises/hostile

promise: environment ## register twenty thousand jobs, let everything go wrong, and compare with the truth
	$(BIN)/python -m tests.exercises.promise

SEEDS := 100000
SECONDS := 120
simulate: environment ## weeks of the service on a virtual clock, a seed each, for two minutes; new seeds each day, or from SEED=<seed> on
	$(BIN)/python -m tests.exercises.simulation --seeds $(SEEDS) --seconds $(SECONDS) $(if $(SEED),--from $(SEED))

mutants: environment ## put each of some twenty bugs into the service: the simulation must find it
	$(BIN)/python -m tests.exercises.simulation --mutants

clean: ## remove what the other targets made
	rm -rf .uv .uv.part .venv .site .cache $(LOWEST) $(LOWEST).txt dist .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
