# make setup   a virtual environment with everything in it (idempotent)
# make train   the default run: Fashion-MNIST, two ranks on this machine's CPU; with DEVICE=gpu on its GPUs, RANKS of them
# make test    the tests
# make test-versions   the tests with the lowest and the newest of everything: 7 GB for each environment, and hours
# make bench   the speed benchmarks, on a CPU: half an hour on a machine with nothing else to do
# make test-gpu   the tests that need a GPU
# make bench-gpu   the benchmarks on a GPU: meant for at most 20 minutes on 16 cores and an H100
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
DEVICE ?= cpu
RANKS ?= $(if $(filter gpu,$(DEVICE)),1,2)
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

# What is meant for the CPU sees no GPU, also where there is one. The tests see to that themselves.
bench test-versions: export CUDA_VISIBLE_DEVICES =
ifeq ($(DEVICE),cpu)
train: export CUDA_VISIBLE_DEVICES =
endif

# Any free port, so that a second run on the same machine is no obstacle.
train: setup data
	@: $(if $(filter cpu gpu,$(DEVICE)),,$(error DEVICE is "$(DEVICE)"; it is cpu or gpu))
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

# Other sizes than on a CPU, fewer contenders, and results of their own; the rest of the measurements are those of a CPU.
GPU_PHOTOGRAPHS := --photographs 20000 --data data/benchmark-photographs-20000
GPU_STEP := $(BIN)/python -m benchmarks.step --cores $(CORES) --precision bf16 --batch-size 256 --keep-rates 0.2 0.6 1 --steps 5

bench-gpu: setup
	$(BIN)/python -m benchmarks.loader --cores $(CORES) --data-sets photographs $(GPU_PHOTOGRAPHS) --batch-size 128 --seconds 2 --repeats 2 --keep-rates 0.2 0.6 1 --threads 4 8 --only "ours, random, keep" "ours, contrast, keep" "decoded on the GPU" "timm, WebDataset" "webdataset and torchvision" "DALI's own" hand-written SPDL --out benchmarks/results/loader_gpu.json
	$(GPU_STEP) --model vit_base_patch16_224 --out benchmarks/results/step_gpu.json
	$(GPU_STEP) --model vit_small_patch16_224 --out benchmarks/results/step_s16_gpu.json
	$(BIN)/python -m benchmarks.attention_bias --batch-size 128 --precision bf16 --cores $(CORES) --out benchmarks/results/attention_bias_gpu.json
	$(BIN)/python -m benchmarks.epoch --cores $(CORES) --model vit_base_patch16_224 --precision bf16 $(GPU_PHOTOGRAPHS) --batch-size 256 --steps 72 --repeats 3 --out benchmarks/results/epoch_gpu.json

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
