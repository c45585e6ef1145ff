# dreamactor: `make help` lists everything. Each target sets up what it needs.
PRESET    ?= puppet
PRECISION ?=
TARGET    ?= auto
CHECKPOINT ?=
PYTHON    ?= python3

SET := --preset $(PRESET) $(if $(PRECISION),--precision $(PRECISION)) --target $(TARGET) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

VENV   := .venv
SERVER := .venv-server
BINDINGS := .assets/tensorrt_bindings/.ready
BIN    := $(VENV)/bin
GPU    := $(shell PYTHONPATH=engines $(PYTHON) -c 'import gpu; print("gpu" if gpu.usable_gpu() else "cpu")' || echo cpu)
OTHER  := $(if $(filter gpu,$(GPU)),onnxruntime,onnxruntime-gpu)
READY  := $(VENV)/.ready-$(GPU)
SERVED := $(SERVER)/.ready-$(GPU)
BESIDE := --numprocesses 2 --dist loadfile
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# What a goal has no use for is refused: a figure of other weights than were named would be worse than none.
IGNORED := $(if $(filter demo train,$(MAKECMDGOALS)),PRECISION TARGET CHECKPOINT) \
           $(if $(filter bench,$(MAKECMDGOALS)),TARGET CHECKPOINT) $(if $(filter eval,$(MAKECMDGOALS)),PRECISION TARGET) \
           $(if $(filter gpu-check,$(MAKECMDGOALS)),PRESET PRECISION TARGET CHECKPOINT)
$(foreach name,$(IGNORED),$(if $(filter command,$(origin $(name))),\
    $(error $(MAKECMDGOALS) takes no $(name): `make help` lists what does)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick test-all engines serve bench gpu-check train eval lint format typecheck clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  engines and serve: PRESET=tiny|puppet|m1  PRECISION=fp32|fp16|bf16|fp8|int8 (default: the target's)"
	@echo "                     TARGET=auto|cpu|cuda|tensorrt|rtx|sm75..sm121  CHECKPOINT=folder"
	@echo "  demo and train: PRESET   bench: PRESET PRECISION   eval: PRESET CHECKPOINT"

setup: $(READY) .assets/.ready $(SERVED)  ## both environments, landmark models and demo media

demo: setup  ## a photo and a clip to build/demo/output.mp4, through the real server
	$(BIN)/python -m dreamactor.demo --preset $(PRESET)

test: setup $(BINDINGS)  ## the real server, the real clips, real builders; leaves out what takes minutes each
	$(BIN)/python -m pytest $(BESIDE) -m "not slow"

test-quick: $(READY) .assets/.ready $(BINDINGS)  ## no server, nothing slow
	$(BIN)/python -m pytest $(BESIDE) -m "not slow and not server"

test-all: setup $(BINDINGS)  ## everything: also every kernel tile, every RTX build, two-process training
	$(BIN)/python -m pytest

engines: $(READY) .assets/.ready  ## checkpoint to verified engines for TARGET
	$(BIN)/dreamactor build $(SET)

serve: setup  ## engines (built if need be) behind Triton Inference Server
	engines=$$($(BIN)/dreamactor build $(SET) --print-path) && $(BIN)/dreamactor serve --engines "$$engines"

bench: setup $(VENV)/.bench  ## the latency harness: build/bench/report.html
	$(BIN)/dreamactor bench --preset $(PRESET) $(if $(PRECISION),--precision $(PRECISION))

gpu-check: $(READY) .assets/.ready  ## kernels, denoiser step and engines on this machine's NVIDIA GPU
	$(BIN)/python -m dreamactor.benchmark.gpu_check

train: $(READY) .assets/.ready  ## the shipped checkpoint's recipe (resumes where it stopped; 45 GB of clips)
	$(BIN)/dreamactor train --preset $(PRESET)

eval: $(READY) .assets/.ready  ## the checkpoint against held-out truth: build/eval/report.json
	$(BIN)/dreamactor eval --preset $(PRESET) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

lint: $(READY)  ## ruff, formatting included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY)  ## mypy, strict
	@mkdir -p build/typecheck/dreamactor
	@for part in dreamactor/*; do ln -sfn ../../../$$part build/typecheck/dreamactor/; done
	@for part in kernels export engines serving benchmark training; do ln -sfn ../../../$$part build/typecheck/dreamactor/; done
	$(BIN)/mypy

clean:  ## what was built, not what was downloaded or trained in build/train
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name train -exec rm -rf {} +; fi

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@# the two onnxruntimes hold the same files: with one the other is broken
	if $(BIN)/pip show --quiet $(OTHER) 2>/dev/null; then $(BIN)/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu; fi
	$(PIP) --editable '.[$(GPU),export,quantise,rtx,serve,dev]'
	@rm -f $(VENV)/.ready*
	@touch $@

$(VENV)/.bench: $(READY)
	$(PIP) --editable '.[bench]'
	@touch $@

.assets/.ready: dreamactor/motion/assets.json training/assets.json | $(READY)
	$(BIN)/python -m dreamactor.motion.assets --dir .assets
	$(BIN)/python -m dreamactor.training.assets --dir .assets
	@touch $@

$(BINDINGS): tests/kernels/tensorrt_bindings.py | $(READY)
	@# the tests that need them are left out without them
	-$(BIN)/python -m tests.kernels.tensorrt_bindings && touch $@

$(SERVED): serving/environment.py serving/constraints-server.txt serving/constraints-server-gpu.txt pyproject.toml | $(READY)
	$(BIN)/python -m dreamactor.serving.environment --dir $(SERVER)
	@touch $@
