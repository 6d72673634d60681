# make demo | test | test-oldest | lint | bench | gpu | mutants: each sets up what it needs, once; a change of setup.cfg installs again.
PYTHON ?= python3
VENV ?= .venv
BENCHMARKS = $(filter-out mutants forked_tests,$(basename $(notdir $(shell grep -l __main__ benchmarks/*.py))))
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-oldest lint bench gpu mutants
.DELETE_ON_ERROR:

demo: $(VENV)/installed-demo
	$(VENV)/bin/hvs-aug demo

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

# The suite with the oldest releases that setup.cfg allows (2 GB of PyTorch for Python 3.11). Left out are tests that import what is
# not installed there: tools, and frameworks that need newer releases.
OLDEST = $(VENV)-oldest
test-oldest: $(OLDEST)/installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto --dist worksteal hvs_aug tests

$(OLDEST)/installed: setup.cfg tests/lower_bounds.py
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(PYTHON) tests/lower_bounds.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/constraints.txt \
		--editable '.[demo,lightly,lightning]' hypothesis pytest pytest-xdist
	touch $@

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Every benchmark, the long way; make bench FLAGS=--quick for a look, BENCHMARKS=augmentation for one.
bench: $(VENV)/installed-bench
	set -e; for name in $(BENCHMARKS); do $(VENV)/bin/python -m benchmarks.$$name $(FLAGS); done

# What needs a GPU: every test marked so, and its benchmark. make gpu GPU_PYTHON=python3 takes an environment that is there already.
GPU_PYTHON ?= $(VENV)/bin/python
gpu: $(if $(filter $(VENV)/%,$(GPU_PYTHON)),$(VENV)/installed-dev)
	$(GPU_PYTHON) -m pytest -m gpu tests
	$(GPU_PYTHON) -m benchmarks.gpu $(FLAGS)

# Small faults put into hvs_aug's selection, views and ops one at a time: which of them no test notices. Half an hour or two;
# FLAGS="--files search" for one file, FLAGS=--resume to go on.
mutants: $(VENV)/installed-dev
	$(VENV)/bin/python -m benchmarks.mutants $(FLAGS)

$(VENV)/installed-%: setup.cfg
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
