# `make quickstart` and `make test` each work as the only command on a machine with Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
# One thread a process: stages run side by side, and results do not depend on the number of cores.
export OMP_NUM_THREADS = 1

# Four at a time on two cores: two of them are clusters, which mostly wait.  What shares something stays
# together (see tests/conftest.py).  SELECTED="..." on the command line selects by other markers.
define run_tests
	$(PYTEST) -m "$(SELECTED)" -n 4 --no-loadscope-reorder --durations 20
endef

.PHONY: quickstart test test-exhaustive test-fast check docs format benchmark image clean help

help:            ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

quickstart: $(READY)  ## from nothing to an ablation report: runs/quickstart/report/report.html
	$(BIN)/cad run experiments/quickstart.yaml

test: SELECTED = not exhaustive
test: $(READY)   ## the tests, a small end-to-end experiment and a real cluster included
	$(run_tests)

test-exhaustive: SELECTED = exhaustive
test-exhaustive: $(READY)  ## every engine, several users of a cluster, 1,000 cells, documented commands, recorded numbers
	$(run_tests)

test-fast: $(READY)  ## the quick tests of every layer, to run often
	$(PYTEST) -n 2 --no-loadscope-reorder -q -m "not slow"

check: $(READY)  ## format, lint, types, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

docs: $(VENV)/.docs  ## the documentation site: build/site/index.html, to read from disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]' --no-build-isolation
	touch $@

format: $(READY) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(READY) ## throughput against a straightforward reference
	$(BIN)/python benchmarks/throughput.py

image:           ## the Apptainer image that cluster jobs run in: build/images/cad.sif (WITH="--mirror ...")
	containers/build.sh apptainer $(WITH)

clean:           ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# DeepSpeed is built as it is installed, with torch at hand and without compiling its kernels.
# Marked ready last: an installation that was interrupted starts again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel torch numpy
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev,engines,frames,minari,trackers]'
	touch $(READY)
