# `make demo` and `make test` set up everything themselves: Python 3.11 to 3.13 and make suffice.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: setup demo test lint test-slow test-references wheel clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable ".[demo,dev]"
	touch $(READY)

demo: setup
	$(BIN)/resnet-keras demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python -m pytest -n 2 --doctest-modules resnet_keras --doctest-glob=README.md README.md
	IMAGE_SIZE=64 EPOCHS=1 $(BIN)/python -m pytest -n 2 --nbmake --nbmake-timeout=600 notebooks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Against torch and timm themselves; they are large, so nothing else installs them.
test-references: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt torch timm
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_parity.py tests/test_architectures.py \
	  tests/test_weights_readers.py tests/test_weights_layouts.py tests/test_weights_published.py \
	  tests/test_weights_registry.py tests/test_preprocessing.py

wheel: setup
	$(BIN)/python -m build

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
