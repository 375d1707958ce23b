# `make help` lists what there is. Everything runs in .venv, which is made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= --slow 24
SIMULATE ?=
SOAK ?=
FUZZ_S ?= 60
FUZZ_OUT ?= fuzz-out

.PHONY: help demo test check system simulate evidence-quick fuzz soak format clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else "fedfstq needs Python 3.10 to 3.13, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed ## A fleet of four fine-tunes one adapter on this machine (DEMO='--rounds 3' passes other options)
	$(BIN)/fedfstq demo $(DEMO)

check: $(VENV)/installed ## Format, lint, types and floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

test: $(VENV)/installed ## The test suite; ends with line coverage, at least 95 % of all but the shells
	$(BIN)/python -m pytest -m 'not system and not browser' --numprocesses 3 --dist loadfile --cov --cov-report=
	$(BIN)/coverage report

system: $(VENV)/installed ## A fleet under a real systemd, from the installer alone, and its page in a real Chromium (root)
	$(BIN)/python -m pytest -m 'system or browser' --numprocesses 3 --dist loadfile

simulate: $(VENV)/installed ## 100,000 rounds of the delivery protocol with random faults, on a virtual clock
	$(BIN)/fedfstq simulate delivery --seeds 4000 --jobs $$(nproc) $(SIMULATE)

evidence-quick: $(VENV)/installed ## The first table of docs/evidence.md in small, in evidence-out/ (ten minutes)
	$(BIN)/fedfstq simulate experiment docs/examples/experiments/quick.yaml --out evidence-out --workers 2
	$(BIN)/fedfstq report experiment evidence-out --out evidence-out/report

fuzz: $(VENV)/installed ## Fuzz every decoder, FUZZ_S seconds each; exit code 1 means a finding
	PYTHONPATH=. $(BIN)/python tests/fuzz/run.py all --seconds $(FUZZ_S) --corpus $(FUZZ_OUT)/corpus --artifacts $(FUZZ_OUT)/found

soak: $(VENV)/installed ## The long matrix with real processes and tc netem: hours, as root (SOAK=--quick: minutes)
	$(BIN)/fedfstq soak --write docs/resilience.md $(SOAK)

format: $(VENV)/installed ## Format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what make made
	rm -rf $(VENV) .coverage* .mypy_cache .pytest_cache .ruff_cache *.egg-info demo-out
