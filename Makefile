# make demo    a data set, a short training and its evaluation, in demo/
# make test    the tests            (PYTEST_ARGS="-m 'not slow'" for the quick ones)
# make lint    ruff and mypy
# make types   what type checkers see from outside: mypy and pyright, both strict, against the installed package
# make docs    the documentation as a site, in site/ (SITE=FOLDER for another one); warnings are errors
# make notebooks    runs docs/notebooks/ and saves them with their outputs
# make conda   the conda environment "hakg", DGL with CUDA
# make clean   remove what these made
#
# PYTHON is the interpreter to build the virtual environment VENV with, 3.10 or newer. DGL has wheels up to 3.12; with
# a newer Python everything works but what takes or returns a DGL graph.
#
# The tests use both of two cores: WORKERS processes with one thread each. Files that take long come first, so that no
# process is alone at the end (tests/conftest.py); what is compiled is kept, as hundreds of processes import it.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
WORKERS ?= 2
SITE ?= site
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint types docs notebooks conda clean

demo: $(VENV)/.installed
	rm -rf demo/data demo/run
	$(BIN)/hakg preprocess demo --out demo/data
	$(BIN)/hakg train demo/data --out demo/run --epochs 10
	$(BIN)/hakg evaluate demo/run

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; \
	  then set -x; $(BIN)/mypy hakg_dgl cli benchmarks tests/outside; \
	  else echo "mypy is left out: the last NumPy and pandas for Python 3.10 have other types than the newer ones"; fi

# Type checkers do not follow an editable install, so the package is installed once more, into an environment that has
# everything else from the first one. The last command measures, and fails below 100%.
types: $(VENV)/.installed-test
	$(PIP) install -q -c constraints.txt -e '.[types]'
	rm -rf $(VENV)/types
	$(BIN)/python -m venv --without-pip $(VENV)/types
	$(call site,$(BIN)/python) > "$$($(call site,$(VENV)/types/bin/python))/needs.pth"
	$(PIP) --python $(VENV)/types/bin/python install -q --no-deps --no-build-isolation .
	cd tests/outside && $(abspath $(BIN))/mypy --strict --config-file= --cache-dir $(abspath $(VENV))/types/mypy \
	  --python-executable $(abspath $(VENV))/types/bin/python *.py
	. $(VENV)/types/bin/activate && $(abspath $(BIN))/pyright -p tests/outside
	-. $(VENV)/types/bin/activate && cd $(VENV)/types && $(abspath $(BIN))/pyright --verifytypes hakg_dgl --ignoreexternal | tail -n 20

site = $(1) -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir '$(abspath $(SITE))'

notebooks: $(VENV)/.installed-test
	$(BIN)/python benchmarks/notebooks.py

conda:
	conda env create -f environment.yml
	conda run -n hakg python -m pip install --no-deps -e .

clean:
	rm -rf .venv build dist demo site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip before 21.3 cannot install a pyproject.toml editable.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 10))' || \
	  { echo "$(PYTHON) is older than Python 3.10: choose another with make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q 'pip>=21.3'

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

# Both at once: one resolution and one build of this package instead of two.
$(VENV)/.installed-all: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[test,docs]'
	@touch $(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-docs $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/.installed
