# make demo | test | test-oldest | test-frameworks | coverage | lint | docs | wheel | bench | gpu | mutants: each sets up what it
# needs, once; a change of setup.cfg installs again.
PYTHON ?= python3
VENV ?= .venv
BENCHMARKS = $(filter-out mutants forked_tests,$(basename $(notdir $(shell grep -l __main__ benchmarks/*.py))))
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-oldest test-frameworks coverage lint docs wheel bench gpu mutants
.DELETE_ON_ERROR:

demo: $(VENV)/installed-demo
	$(VENV)/bin/hvs-aug demo

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

# The suite with the oldest releases that setup.cfg allows (2 GB of PyTorch for Python 3.11). Left out are tests that import what is
# not installed there: tools, and frameworks that need newer releases. Old releases use what new ones of their dependencies deprecate.
OLDEST = $(VENV)-oldest
test-oldest: $(OLDEST)/installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto --dist worksteal -W ignore::DeprecationWarning -W ignore::FutureWarning \
		-W 'ignore:The transform `ToTensor:UserWarning' hvs_aug tests

$(OLDEST)/installed: setup.cfg tests/lower_bounds.py
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(PYTHON) tests/lower_bounds.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/constraints.txt \
		--editable '.[demo,lightly,lightning]' hypothesis pytest pytest-xdist
	touch $@

# Which lines and branches of hvs_aug the suite runs, in the processes that tests start too: at least 95 %.
coverage: $(VENV)/installed-dev
	$(VENV)/bin/python -m coverage erase
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m coverage run -m pytest
	$(VENV)/bin/python -m coverage combine --quiet
	$(VENV)/bin/python -m coverage report

# With every framework that there is an integration for, from its own package (1.1 GB beside what the suite needs).
FRAMEWORKS = $(VENV)-frameworks
test-frameworks: $(FRAMEWORKS)/installed
	OMP_NUM_THREADS=1 $(FRAMEWORKS)/bin/python -m pytest tests/integrations tests/views/test_albumentations.py \
		tests/distributed/test_wrapped_loaders.py

$(FRAMEWORKS)/installed: setup.cfg
	test -x $(FRAMEWORKS)/bin/python || $(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,frameworks]'
	touch $@

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# The API reference from the docstrings, as files that open without a network.
MODULES = hvs_aug $(addprefix hvs_aug.,ops selection.policies views.presets data analysis pretraining pretraining.photographs pretraining.loop \
    $(addprefix integrations.,$(notdir $(basename $(filter-out %/__init__.py,$(wildcard hvs_aug/integrations/*.py))))))
docs: $(VENV)/installed-docs
	rm -rf build/docs
	$(VENV)/bin/python -m pdoc --docformat google --output-directory build/docs $(MODULES)
	$(VENV)/bin/python -m tests.links build/docs
	@echo "open build/docs/index.html"

# The wheel, and what a user gets of it: installed into an empty environment, imported, and asked for its help.
wheel: $(VENV)/installed-dev
	rm -rf build/wheel build/empty
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/empty
	build/empty/bin/pip install --quiet --disable-pip-version-check build/wheel/*.whl
	cd build && empty/bin/hvs-aug --version && empty/bin/python -m hvs_aug --help > /dev/null

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
