# `make demo`, `make up` and `make test` need Python 3.11+ and nothing else: each makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CUDA_VENV := .venv-cuda
CUDA_TORCH := 2.14.1

# Two test processes on two cores: one thread each, and none that spins while it waits.
test check: export OMP_NUM_THREADS = 1
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo up test check format tour chaos screen dry-run clean

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,gateway,dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python sdxl_worker.py --demo
	$(BIN)/python wan_worker.py --demo

up: $(INSTALLED)
	$(BIN)/python -m gateway.up

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

tour: $(INSTALLED)
	$(BIN)/python -m tests.tour

chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos

screen: $(INSTALLED)
	$(BIN)/python -m benchmarks.screen

# The CUDA path without a card. Its environment of its own holds a CUDA build of torch: 6 GB.
dry-run: $(CUDA_VENV)/.installed
	$(CUDA_VENV)/bin/python -m benchmarks.dry_run

$(CUDA_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	sed '/^torch==/d' constraints.txt > $(CUDA_VENV)/constraints.txt
	$(CUDA_VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CUDA_VENV)/constraints.txt 'torch==$(CUDA_TORCH)' -e .
	touch $@

clean:
	rm -rf $(VENV) $(CUDA_VENV) demo_output build *.egg-info .mypy_cache .ruff_cache .pytest_cache
