# The whole project from one place. Written for GNU make 3.81 and later, on Linux and macOS.

PYTHON     ?= python3
EXPERIMENT ?= digits

START     := $(shell date +%s)
BIN       := .venv/bin
READY     := .venv/.stamp
SNAKEMAKE := $(BIN)/snakemake
# prints time, the set-up's included, and memory at the end
MEASURE   := $(BIN)/python workflow/scripts/measure.py --since $(START)

.DEFAULT_GOAL := help
.PHONY: help setup smoke reproduce report lab bench test test-fast test-slurm lint docs clean

help: ## show this list
	@echo "make TARGET [EXPERIMENT=digits] [PYTHON=python3]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with everything in it; the other targets do so when it is missing or stale

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: '$(PYTHON)' is no Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: '$(PYTHON)' lacks the module venv; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv: some minutes, for PyTorch is large."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --editable '.[pipeline,notebooks]' --group dev
	@touch $@

smoke: $(READY) ## the whole pipeline in a few minutes: ResNet-18, one seed
	$(MEASURE) $(SNAKEMAKE) --config experiment=smoke

reproduce: $(READY) ## train all runs of EXPERIMENT and make every figure and table
	$(MEASURE) $(SNAKEMAKE) --config experiment=$(EXPERIMENT)

report: $(READY) ## the same, then one HTML file with all of it: results/EXPERIMENT/report.html
	$(SNAKEMAKE) --config experiment=$(EXPERIMENT)
	$(SNAKEMAKE) --config experiment=$(EXPERIMENT) --report results/$(basename $(notdir $(EXPERIMENT)))/report.html

lab: $(READY) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks/

bench: $(READY) ## time and memory of a step of every method beside plain torchvision: results/bench/
	$(BIN)/python benchmarks/steps.py

test: $(READY) ## all tests
	$(BIN)/pytest -n 2

test-fast: $(READY) ## the tests that take no more than a second or two each
	$(BIN)/pytest -n 2 -m "not slow"

test-slurm: $(READY) ## the pipeline on a Slurm cluster, made of this machine for as long as it takes (Debian, Ubuntu; root)
	tests/slurm.sh $(BIN)/pytest tests/test_slurm.py

lint: $(READY) ## style, types and imports of everything
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint
	$(BIN)/mypy wtkit
	$(BIN)/lint-imports

docs: $(READY) ## the documentation, a site that works offline: docs/_build/html/index.html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove what was made; data/, results/reference/ and .venv/ stay
	@if [ -d results ]; then find results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +; fi
	rm -rf .snakemake .pytest_cache .ruff_cache .mypy_cache docs/_build docs/api docs/notebooks
