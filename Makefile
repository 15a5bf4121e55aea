# Everything sets itself up: a virtual environment in $(VENV), with the package installed editable.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.ctsgfn-installed
PYTEST := $(BIN)/pytest -q --timeout=300

# One BLAS thread per process: with more, parallel tests fight over the cores.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-smoke test test-slow test-gpu lint format types wheel-check bench paper paper-quick clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit("ctsgfn needs Python 3.10 or newer, $(PYTHON) is %d.%d: make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing ctsgfn and its tools into $(VENV) (a few minutes, once)"
	@$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

setup: $(STAMP) ## create the environment, nothing else

demo: $(STAMP) ## eight schools and 25 modes: samples, evidence, figures
	@$(BIN)/python examples/demo.py

demo-smoke: $(STAMP) ## the same code with tiny budgets, for CI
	@$(BIN)/python examples/demo.py --smoke --out build/demo

test: $(STAMP) ## the fast tests, doctests and README blocks included
	@$(PYTEST) -n $(WORKERS) -m "not slow and not gpu"

test-slow: $(STAMP) ## the statistical and training runs
	@$(PYTEST) -n $(WORKERS) -m "slow and not gpu" --timeout=1800

test-gpu: $(STAMP) ## the tests that need a CUDA device
	@$(PYTEST) -m gpu

lint: $(STAMP) ## ruff, rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

wheel-check: $(STAMP) ## build the wheel, import it from another folder
	@$(BIN)/python .ci/wheel.py

bench: $(STAMP) ## every benchmark (an hour or two); results under benchmarks/results, numbers into the README
	$(BIN)/python benchmarks/modes.py
	$(BIN)/python benchmarks/eight_schools.py
	$(BIN)/python benchmarks/pyro_density.py --write
	$(BIN)/python benchmarks/diffusion_step.py --write
	$(BIN)/python benchmarks/box_step.py
	$(BIN)/python benchmarks/sampling.py --write
	$(BIN)/python benchmarks/hypergrid.py
	$(BIN)/python benchmarks/graphs.py
	$(BIN)/python benchmarks/panel.py
	$(BIN)/python benchmarks/posteriordb.py
	$(BIN)/python benchmarks/box.py train --objective tb
	$(BIN)/python benchmarks/box.py train --objective db
	$(BIN)/python benchmarks/box.py figure
	$(BIN)/python benchmarks/table.py

# In the order of the paper; each reads nothing but its own results, and the figures nothing else.
PAPER := box_curves box_failures torus molecule control structure structure_dibs digits vi
FIGURES := box_curves box_densities box_failures torus molecule control structure digits vi

paper: $(STAMP) ## the paper's experiments (half a day on one core; resumes), figures and table
	@for name in $(PAPER); do $(BIN)/python paper_repro/$$name.py || exit 1; done
	@for name in $(FIGURES); do $(BIN)/python figures/$$name.py || exit 1; done
	@$(BIN)/python paper_repro/table.py
	@$(BIN)/python paper_repro/orderings.py

paper-quick: $(STAMP) ## all of that in a tiny form, for CI, into build/paper_quick
	@for name in $(PAPER); do $(BIN)/python paper_repro/$$name.py --quick || exit 1; done
	@for name in $(FIGURES); do $(BIN)/python figures/$$name.py --quick || exit 1; done

clean: ## remove build products (the environment stays)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
