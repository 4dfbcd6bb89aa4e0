# The commands of the house. Everything lives in $(VENV); nothing is installed outside it, except Chromium by apt-get for
# the browser tests, and only where we are root.
#
#   make test PYTHON=python3.13 VENV=/tmp/v313      another Python, in an environment of its own
#   make test PYTEST_FLAGS="-x -k codec"            a part of the tests

PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?=
BENCH_FLAGS ?=

bin := $(VENV)/bin
py := $(bin)/python
# Other releases of ipykernel, which the tests of output run on beside the one in constraints.txt.
KERNELS := 6.29.5 7.0.1
stamp := $(VENV)/.epyrpc-env
bench_stamp := $(VENV)/.epyrpc-bench
pip := $(py) -m pip --disable-pip-version-check --no-input
notebooks := $(wildcard notebooks)
# Notebooks are compared strictly: what a tutorial shows is part of what it says.
nbval := --nbval --nbval-sanitize-with tests/sanitize.cfg --nbval-current-env --nbval-cell-timeout 60
pytest := $(py) -m pytest

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env kernels demo lab test lint format types verifytypes checklist bench browser hooks clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The package is compiled here too: every body imports it, and where Python is told not to write bytecode each body would
# compile it again, which makes a start three times as long.
env: $(stamp) ## Make the environment in .venv, once.
	@$(py) -m compileall -q epyrpc widgets

# A venv without a working pip is a half-made one: it is made again.
$(stamp): pyproject.toml constraints.txt
	@if ! command -v $(PYTHON) >/dev/null 2>&1; then \
	  echo "make env: there is no '$(PYTHON)' here; epyrpc needs Python 3.10 or newer (make env PYTHON=/path/to/python3)." >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make env: $$($(PYTHON) --version 2>&1) is too old; epyrpc needs Python 3.10 or newer (make env PYTHON=python3.12)." >&2; exit 1; }
	@if ! $(py) -m pip --version >/dev/null 2>&1; then \
	  if ! $(PYTHON) -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	      echo "make env: installing Debian's python3-venv, which '$(PYTHON)' needs to make an environment"; \
	      { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; } \
	        </dev/null >/dev/null || true; \
	    fi; \
	    $(PYTHON) -c 'import ensurepip, venv' >/dev/null 2>&1 || { \
	      echo "make env: '$(PYTHON)' has no venv module; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }; \
	  fi; \
	  echo "make env: making $(VENV) with $$($(PYTHON) --version); the first time takes a minute or two"; \
	  $(PYTHON) -m venv --clear $(VENV) </dev/null; \
	fi
	@$(pip) install --quiet -c constraints.txt hatchling editables </dev/null
	@$(pip) install --quiet -c constraints.txt --no-build-isolation -e '.[test,dev]' </dev/null
	@touch $@

# Each in a folder named after its first two numbers. Without a network those tests are skipped, by name.
kernels: $(foreach v,$(KERNELS),$(VENV)/kernels/$(v)) ## Fetch the other releases of ipykernel that output is tested on.

$(VENV)/kernels/%: $(stamp)
	@rm -rf $(VENV)/kernels/ipykernel-$(basename $*)
	@if $(pip) install --quiet --no-deps --target $(VENV)/kernels/ipykernel-$(basename $*) "ipykernel==$*" </dev/null; \
	  then touch $@; else echo "make test: no ipykernel $* to be had, so its tests are skipped"; fi

$(bench_stamp): $(stamp)
	@$(pip) install --quiet -c constraints.txt --no-build-isolation -e '.[bench]' </dev/null
	@touch $@

demo: env ## Run the main job, visibly.
	@$(py) -m epyrpc.demo

lab: env ## Open JupyterLab on the tutorials.
	@$(py) -m jupyterlab notebooks

# pytest comes last and alone, so that its closing line is the last one printed.
test: env kernels browser lint types ## Run every check and every test, docstrings and notebooks too.
	@$(pytest) epyrpc tests $(notebooks) --doctest-modules $(nbval) $(PYTEST_FLAGS) </dev/null

lint: env
	@$(bin)/ruff format --check --quiet . || { echo "make lint: 'make format' lays the files above out" >&2; exit 1; }
	@$(bin)/ruff check --quiet .

format: env ## Lay the code out and mend what ruff can mend.
	@$(bin)/ruff format .
	@$(bin)/ruff check --fix .

# IPython 8, the last one for Python 3.10, tells fewer types than --strict asks for.
untyped_ipython := --implicit-reexport --allow-untyped-calls --allow-untyped-decorators --no-warn-unused-ignores

types: env ## Check the types: mypy --strict.
	@$(py) -m mypy --no-error-summary \
	  $$($(py) -c 'import sys; print("$(untyped_ipython)" if sys.version_info < (3, 11) else "")')

# Quick and complete, but every name without an underscore counts as public here. pyright needs a Node.js that is on the
# machine already, and reads the environment of the first python on PATH.
verifytypes: env ## Let pyright say how completely the public names are typed.
	@command -v node >/dev/null 2>&1 || { echo "make verifytypes: pyright needs node (sudo apt-get install nodejs)" >&2; exit 1; }
	@PATH="$(abspath $(bin)):$$PATH" $(bin)/pyright --verifytypes epyrpc --ignoreexternal

checklist: env ## Print the table of promised capabilities, each with the outcome of its tests.
	@$(pytest) tests $(notebooks) $(nbval) -m capability --checklist -q $(PYTEST_FLAGS) </dev/null

bench: $(bench_stamp) ## Measure calls, events and maps beside the peers, and what watching costs, in one run.
	@$(py) -m tests.benchmarks.maps
	@echo
	@$(py) -m tests.benchmarks.watching
	@echo
	@$(py) -m tests.benchmarks --free $(BENCH_FLAGS)
	@echo
	@$(py) -m tests.benchmarks $(BENCH_FLAGS)

# Debian's chromium drives the tests marked `browser`; without it those are skipped, by name, and the rest runs.
browser:
	@if ! command -v chromium >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "make test: installing Debian's chromium for the browser tests"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } </dev/null >/dev/null 2>&1 || true; \
	  fi; \
	  command -v chromium >/dev/null 2>&1 || \
	    echo "make test: no chromium here, so the tests marked 'browser' are skipped (sudo apt-get install chromium)"; \
	fi

hooks: env ## Let git run the quick checks before each commit.
	@$(bin)/pre-commit install

clean: ## Remove what was made here: environment, caches, builds.
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
