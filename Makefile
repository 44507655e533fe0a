# `make demo` and `make test` do everything on a fresh machine: they make .venv if there is none, install, and run.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test test-all check docs clean

demo: $(READY)
	$(BIN)/potstill demo

test: $(READY) check
	$(BIN)/pytest -m "not slow and not gpu"

test-all: $(READY) check
	$(BIN)/pytest

docs: $(READY)
	$(BIN)/python docs/generate.py

check: $(READY)
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist
