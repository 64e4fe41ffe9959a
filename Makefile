# make setup   a virtual environment with everything in it (idempotent)
# make train   the default run: Fashion-MNIST, two ranks on this machine's CPU
# make test    the tests
# make test-versions   the tests with the lowest and the newest of everything: 7 GB for each environment, and hours
# make bench   the speed benchmarks, on a CPU: half an hour on a machine with nothing else to do
# make test-gpu, make bench-gpu   the tests that need a GPU, and the benchmarks on one
# make check   formatting, lint, types
# make docs    the documentation as a site, in site/, by an environment of its own

PYTHON ?= python3.11
VENV := .venv
DOCS_VENV := .venv-docs
BIN := $(VENV)/bin
SHELL := /bin/bash

# torchrun-like launchers find the environment's python through the PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

TRAIN_CONFIG ?= configs/fashion_mnist.yaml
RANKS ?= 2
CORES ?= $(shell nproc)

.PHONY: setup data train test test-gpu test-versions bench bench-gpu check format docs clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11 with its venv module (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name another, to 3.13, with make PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

data: data/fashion-mnist/dataset.json

data/fashion-mnist/dataset.json: | setup
	$(BIN)/python -m tools.shards convert --source fashion-mnist --out data/fashion-mnist

# Any free port, so that a second run on the same machine is no obstacle.
train: setup data
	port=$$($(BIN)/python -c "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])") && \
	$(BIN)/deepspeed --quiet --no_local_rank --num_accelerators $(RANKS) --master_port $$port --module engine.train --config $(TRAIN_CONFIG) $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

test-gpu: setup
	$(BIN)/python -m pytest -m gpu $(ARGS)

test-versions: setup data
	$(BIN)/python -m tools.versions $(ARGS)

bench: setup data
	$(BIN)/python -m benchmarks.loader
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.attention_bias
	$(BIN)/python -m benchmarks.epoch
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.performance

# Other sizes than on a CPU, and results of their own; the rest of the measurements are those of a CPU.
bench-gpu: setup data
	$(BIN)/python -m benchmarks.loader --cores $(CORES) --batch-size 256 --photographs 20000 --data data/benchmark-photographs-20000 --seconds 5 --out benchmarks/results/loader_gpu.json
	$(BIN)/python -m benchmarks.step --batch-size 256 --out benchmarks/results/step_gpu.json
	$(BIN)/python -m benchmarks.epoch --cores $(CORES) --batch-size 256 --steps 72 --precision bf16 --photographs 20000 --data data/benchmark-photographs-20000 --out benchmarks/results/epoch_gpu.json

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Zensical alone, in an environment of its own: gathering the pages needs nothing but Python.
$(DOCS_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --constraint constraints.txt zensical
	@touch $@

docs: $(DOCS_VENV)/.installed
	rm -rf build/site-pages
	$(DOCS_VENV)/bin/python -m tools.site build/site-pages
	$(DOCS_VENV)/bin/zensical build --clean --strict

clean:
	rm -rf $(VENV) $(DOCS_VENV) site build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
