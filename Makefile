# All common tasks. For GNU make 3.81 and later, on Linux and macOS.

PYTHON     ?= python3
EXPERIMENT ?= digits
ARGS       ?=

START     := $(shell date +%s)
BIN       := .venv/bin
READY     := .venv/.stamp
SNAKEMAKE := $(BIN)/snakemake
# prints time (with set-up) and peak memory at the end
MEASURE   := $(BIN)/python workflow/scripts/measure.py --since $(START)

# compiled once at set-up, even if PYTHONDONTWRITEBYTECODE is set: every process of the pipeline imports them
IMPORTED  := wtkit.training, wtkit.plan.measuring, wtkit.claims, wtkit.figures.ablation, wtkit.figures.circuits, \
             sklearn.datasets, snakemake.cli, papermill, nbconvert, ipykernel.kernelapp, jupyter_client.manager

.DEFAULT_GOAL := help
.PHONY: help setup smoke reproduce report lab bench test test-fast test-slurm test-browser test-tools lint docs clean

help: ## show this list
	@echo "make TARGET [EXPERIMENT=digits] [PYTHON=python3] [ARGS='options of lab']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## create .venv and install everything; other targets do this if .venv is missing or outdated

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: '$(PYTHON)' is not Python 3.11 or newer; choose one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: '$(PYTHON)' lacks the module venv; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv. PyTorch is large: this takes some minutes."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-compile --editable '.[pipeline,notebooks]' --group dev
	@echo "Compiling what the pipeline imports."
	@PYTHONDONTWRITEBYTECODE= PYTHONWARNINGS=ignore $(BIN)/python -c 'import $(IMPORTED)'
	@touch $@

smoke: $(READY) ## run the whole pipeline in a few minutes: ResNet-18, one seed
	$(MEASURE) $(SNAKEMAKE) --config experiment=smoke

reproduce: $(READY) ## train all runs of EXPERIMENT and draw every figure and table
	$(MEASURE) $(SNAKEMAKE) --config experiment=$(EXPERIMENT)

report: $(READY) ## reproduce, then write results/EXPERIMENT/report.html with all results
	$(SNAKEMAKE) --config experiment=$(EXPERIMENT)
	$(SNAKEMAKE) --config experiment=$(EXPERIMENT) --report results/$(basename $(notdir $(EXPERIMENT)))/report.html

lab: $(READY) ## open JupyterLab on copies of the notebooks, in lab/
	$(BIN)/python workflow/scripts/lab.py $(ARGS)

bench: $(READY) ## measure a step of every method against plain torchvision: results/bench/
	$(BIN)/python benchmarks/steps.py

test: $(READY) ## run all tests
	$(BIN)/pytest -n 2

test-fast: $(READY) ## run the tests that take at most a second or two each
	$(BIN)/pytest -n 2 -m "not slow"

test-slurm: $(READY) ## test the pipeline on a temporary Slurm cluster on this machine (Debian, Ubuntu; root)
	tests/slurm.sh $(BIN)/pytest tests/test_slurm.py

test-browser: $(READY) ## test interactive figures, notebooks and report in a browser, Chromium or the one in WTKIT_BROWSER
	@$(BIN)/python -m pip install --quiet --group browser
	WTKIT_BROWSER="$${WTKIT_BROWSER:-$$(command -v chromium || command -v chromium-browser || command -v google-chrome)}" \
	  $(BIN)/pytest tests/test_browser.py tests/test_report.py

test-tools: $(READY) ## test converted networks under Lightning, Accelerate, timm, peft and others, which it installs
	@$(BIN)/python -m pip install --quiet --group tools
	$(BIN)/pytest tests/test_tools.py

lint: $(READY) ## check style, types and imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint
	$(BIN)/mypy wtkit
	$(BIN)/lint-imports

docs: $(READY) ## build the documentation, a site that works offline: docs/_build/html/index.html
	@rm -rf docs/api  # pages of names that are gone
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove results and caches; data/, lab/, results/reference/ and .venv/ stay
	@if [ -d results ]; then find results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +; fi
	rm -rf .snakemake .pytest_cache .ruff_cache .mypy_cache docs/_build docs/api docs/notebooks
