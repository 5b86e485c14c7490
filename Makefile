# What one does here. `make demo` and `make test` need Python 3.11 and pip, nothing else.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint clean

.venv/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0  # first and exact: on a CPU-only index a looser request may pull gigabytes of CUDA
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

demo: .venv/.installed  ## the whole chain on a small world of its own, trainings included
	$(BIN)/sevila demo

test: .venv/.installed
	$(BIN)/python -m pytest

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info
