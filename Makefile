# The two commands of this repository: `make demo` and `make test`. Each sets up what it needs in .venv first.

VENV ?= .venv
BIN := $(VENV)/bin
# the first Python of at least 3.11 that runs; override with `make PYTHON=/path/to/python`
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
DEMO ?= ddbench-demo

.PHONY: help demo docs test test-all lint types format clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.ready  ## every method on the embedded digits: table, plots, pictures in ./ddbench-demo
	$(BIN)/ddbench demo --out $(DEMO)

# not --quiet: it silences the warnings that --strict counts
docs: $(VENV)/.docs-ready  ## the documentation, into build/docs; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: lint types  ## lint, types, and all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 -m "not slow"

test-all: $(VENV)/.ready  ## the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 -m slow

lint: $(VENV)/.ready  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready  ## mypy over the source folders
	$(BIN)/mypy

format: $(VENV)/.ready  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "ddbench needs Python 3.11 or later: none found (set PYTHON=...)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing ddbench and its libraries into $(VENV) (PyTorch's default build: 5.5 GB, some minutes)"
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --editable '.[dev]'
	@touch $@

$(VENV)/.docs-ready: $(VENV)/.ready
	@$(BIN)/python -m pip install -qq --editable '.[docs]'
	@touch $@

clean:  ## remove the environment and what was built (not the cache, not the results)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
