# Two commands: `make demo` (install, search, leaderboard) and `make test` (everything CI runs).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A container may forbid bytecode; then every process compiles its imports again (about 20 s a command).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-lowest test-newest gpu-check lint types install install-dev clean

demo: install
	$(BIN)/python tune.py --space demo

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.installed: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .

types: install-dev
	$(BIN)/mypy

# Two workers, a file on one of them; those that start Ray come first (tests/conftest.py), since they mostly wait.
test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The lowest and the newest versions that pyproject.toml allows, each in an environment of its own; nothing that starts Ray.
test-lowest test-newest: test-%: $(BIN)/uv
	$(BIN)/uv venv --clear --python $(PYTHON) .venv-$*
	$(BIN)/uv pip install --python .venv-$*/bin/python --compile-bytecode \
		--resolution $(if $(filter lowest,$*),lowest-direct,highest) --editable '.[dev]'
	.venv-$*/bin/python -m pytest -m 'not slow' tests/unit tests/contracts

# Needs torch 2.8 or newer, timm, numpy, pillow and pytest in that interpreter, and installs nothing.
gpu-check:
	$(PYTHON) -m pytest -c tests/gpu/gpu.ini --confcutdir=tests/gpu -p no:cacheprovider tests/gpu

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest build *.egg-info
