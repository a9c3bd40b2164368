# make demo    a data set, a short training and its evaluation, in demo/
# make test    the tests            (PYTEST_ARGS="-m 'not slow'" for the quick ones)
# make lint    ruff and mypy
# make conda   the conda environment "hakg", DGL with CUDA
# make clean   remove what these made
#
# PYTHON is the interpreter to build the virtual environment VENV with: 3.10, 3.11 or 3.12, as DGL has no wheel for
# others.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint conda clean

demo: $(VENV)/.installed
	rm -rf demo/data demo/run
	$(BIN)/hakg preprocess demo --out demo/data
	$(BIN)/hakg train demo/data --out demo/run --epochs 10
	$(BIN)/hakg evaluate demo/run

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hakg_dgl cli benchmarks

conda:
	conda env create -f environment.yml
	conda run -n hakg python -m pip install --no-deps -e .

clean:
	rm -rf .venv build dist demo *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip before 21.3 cannot install a pyproject.toml editable.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "$(PYTHON) is no Python 3.10, 3.11 or 3.12, and DGL has no wheel for others: make PYTHON=python3.11" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q 'pip>=21.3'

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed
