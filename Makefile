# make demo       install what running needs, pre-train on the built-in corpus, fine-tune with and without
# make test       install what the checks need too, then formatting, ruff, mypy and most tests
# make test-slow  the tests with processes, kills, notebooks, fuzzing, ONNX and the documentation
# make check      formatting, ruff and mypy alone
# make soak       kill, cut short and damage hundreds of short runs, read 20,000 damaged files, watch the memory of a long run
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-slow check soak

demo: $(VENV)/run
	$(BIN)/python examples/demo.py

test: check
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 -m "not slow"

test-slow: $(VENV)/test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 -m slow

check: $(VENV)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(VENV)/test
	$(BIN)/python tests/fuzz.py --out benchmarks/results/fuzz.md
	$(BIN)/python tests/faults.py --out benchmarks/results/soak.md

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(VENV)/bin/python requirements.txt constraints.txt
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/test: $(VENV)/run requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@
