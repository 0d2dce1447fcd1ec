# Each target makes the .venv it needs, from nothing but Python 3.10 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := background_tasks tests
VERSIONS := 3.10 3.11 3.12 3.13

.DEFAULT_GOAL := help
.PHONY: help install demo format lint typecheck test coverage long soak versions release-check check bench bench-quick mutants build clean

help:  ## Print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(READY)  ## Make .venv with the package and all it is developed with

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	touch $@

demo: $(READY)  ## Run the example agent for ten seconds
	$(BIN)/python -m background_tasks demo

format: $(READY)  ## Rewrite the sources in the house style
	$(BIN)/ruff check --fix --quiet $(SOURCES)
	$(BIN)/ruff format --quiet $(SOURCES)

lint: $(READY)  ## Report what is not in the house style
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

typecheck: $(READY)  ## Check the types
	$(BIN)/mypy

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest

coverage: $(READY)  ## Run the tests and show which branches they leave out
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report

long: $(READY)  ## Run the tests that draw cases at random with many more of them (10 minutes)
	ZONES_CASES=20000 BOUND_SYSTEMS=60000 MODEL_EXAMPLES=2000 MODEL_STEPS=100 \
	    $(BIN)/python -m pytest -o faulthandler_timeout=0 \
	    tests/test_cron_zones.py tests/test_bound.py tests/test_engine_model.py

soak: $(READY)  ## Look for leaks and races: 100,000 tasks, thirty virtual days, 20,000 worlds a scenario (1 hour)
	LEAK_TASKS=100000 LEAK_CYCLES=1000 LEAK_DAYS=30 MODEL_EXAMPLES=1500 MODEL_STEPS=50 \
	    $(BIN)/python -m pytest -o faulthandler_timeout=0 --durations=0 \
	    tests/test_leaks.py tests/test_engine_model.py
	SCENARIO_SEEDS=20000 $(BIN)/python -m pytest -o faulthandler_timeout=0 \
	    tests/test_scenarios.py -k test_in_many_worlds

# One target a version, so that `make -j2` can test two at a time.
versions: $(addprefix python-,$(VERSIONS))  ## Run the tests on each Python of 3.10 to 3.13 that is installed beside that of .venv

python-%: $(READY)
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if [ "$*" = "$$own" ]; then echo "Python $*: make test"; exit 0; fi; \
	python=$$(PYENV_VERSION= command -v python$* || true); \
	"$$python" -c '' 2>/dev/null || python=$$(ls -d "$$HOME"/.pyenv/versions/$*.*/bin/python 2>/dev/null | tail -1); \
	if [ -z "$$python" ]; then echo "Python $*: not installed"; exit 0; fi; \
	venv=build/venv-$*; \
	if [ ! -e $$venv/.ready ] || [ pyproject.toml -nt $$venv/.ready ]; then \
	    "$$python" -m venv $$venv \
	    && $$venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" \
	    && $$venv/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group test \
	    && touch $$venv/.ready || exit 1; \
	fi; \
	echo "Python $*: $$($$venv/bin/python --version)"; \
	$$venv/bin/python -m pytest -q -p no:cacheprovider

release-check: $(READY)  ## Check that the version heads the changelog
	$(BIN)/python -c 'import re, pathlib; \
	version = re.search(r"^version = \"(.+)\"", pathlib.Path("pyproject.toml").read_text(), re.M)[1]; \
	heads = re.findall(r"^## \[(.+?)\]", pathlib.Path("CHANGELOG.md").read_text(), re.M); \
	assert version in heads[:2], f"CHANGELOG.md starts with {heads[:2]}, not {version}"'

check: lint typecheck release-check  ## All that must hold before a change lands
	$(MAKE) --jobs=2 --output-sync=target coverage versions test

BENCH := build/venv-bench
$(BENCH)/.ready: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable . \
	    "apscheduler>=3.11,<4" scheduler schedule huey matplotlib freezegun prometheus-client opentelemetry-sdk
	touch $@

bench: $(BENCH)/.ready  ## Measure against limits and peers (10 minutes): table, build/bench.json, .svg
	$(BENCH)/bin/python -m tests.benchmarks

bench-quick: $(BENCH)/.ready  ## The same in 2 minutes: fewer rounds and peers, shorter runs
	$(BENCH)/bin/python -m tests.benchmarks --quick

MUTANTS := build/venv-mutants
$(MUTANTS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(MUTANTS)
	$(MUTANTS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(MUTANTS)/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group test "mutmut>=3.8,<4"
	touch $@

mutants: $(MUTANTS)/.ready  ## Change the pure modules 3,000 times, one by one: what does no test notice? (2 hours; resumes)
	PYTHONHASHSEED=0 MODEL_EXAMPLES=60 ADMISSION_SYSTEMS=100 $(MUTANTS)/bin/mutmut run --max-children 1
	$(MUTANTS)/bin/mutmut results

build: $(READY)  ## Build the sdist and the wheel into dist/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist

clean:  ## Remove all that the other targets made
	rm -rf $(VENV) build dist mutants .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
