# make setup   a virtual environment with everything in it (idempotent)
# make train   the default run: Fashion-MNIST, two ranks on this machine's CPU
# make test    the tests
# make check   formatting, lint, types

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

# torchrun-like launchers find the environment's python through the PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

TRAIN_CONFIG ?= configs/fashion_mnist.yaml
RANKS ?= 2

.PHONY: setup data train test check format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11 with its venv module (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name another with make PYTHON=..."; exit 1; }
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

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
