# make demo: train two small networks and open the door; make test: everything that has to pass.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-slow lint

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attnconv needs Python 3.11 or newer")'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[train,timm,dev]'
	touch $@

demo: install
	$(BIN)/attnconv demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# One thread a worker: pytest-xdist starts a worker for each core.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "not slow and not gpu and not network"

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "slow and not gpu and not network"
