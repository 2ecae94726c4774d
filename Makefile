# make demo: train two small networks and show what they do; make test: everything that has to pass.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TRAINING := .venv/.training

.PHONY: install clients demo test test-slow timm-tests lint docs gpu

install: $(INSTALLED)

# The demo needs only the second, which takes half of the time.
$(INSTALLED): EXTRAS := all,docs,dev
$(TRAINING): EXTRAS := train
$(INSTALLED) $(TRAINING): pyproject.toml constraints.txt setup.py $(wildcard csrc/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attnconv needs Python 3.11 or newer")'
	@echo 'installing into .venv: some minutes, 6 to 7 GiB with CUDA, most of it PyTorch'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

# The libraries of docs/integrations.md, for the tests in tests/clients, which skip without them.
clients: install
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[clients]'

demo: $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(TRAINING))
	$(BIN)/attnconv demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# One thread a worker: pytest-xdist starts a worker for each core. worksteal keeps the tests of a file together, so that
# what they share is made once.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu and not network"

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "slow and not gpu and not network"

# timm's own tests of networks on ours: TESTS is tests/test_models.py of the installed version's source package, which
# pip download --no-deps --no-binary timm timm==VERSION brings.
timm-tests: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests/timm_bridge $(BIN)/pytest -c /dev/null -p no:cacheprovider -p own_names -W ignore \
		-n auto --dist worksteal -q $(TESTS)

# The site, into site/, without the network; a broken link, a docstring missing or unfit, or wrong TeX fails.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# On a machine with an NVIDIA GPU, in under 8 minutes: the gpu tests, then the GPU benchmark. Installs nothing; the
# python3 it finds needs torch, triton, numpy and pytest. No ini file: that one asks for plugins of pytest.
gpu:
	@$(PYTHON) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no CUDA device: nothing to do")'
	PYTHONPATH=src $(PYTHON) -m pytest -c /dev/null --rootdir=. -p no:cacheprovider -q -m gpu tests/test_gpu.py
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py
