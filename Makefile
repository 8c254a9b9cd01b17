# `make demo` and `make test` set up everything they need in .venv. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
CONSTRAINTS := requirements/constraints.txt
BUILD := build
GENERATOR := $(if $(shell command -v ninja),-G Ninja)
NATIVE_SOURCES := $(shell find csrc -type f 2>/dev/null)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help demo test check setup native ctest sanitize wheel bench gpu gpu-peers clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## set up, then track an object in a real clip with the shipped weights
	$(BIN)/esat demo --out out

test: $(VENV)/.test ## set up, then run every test that needs no GPU
	$(RUN) -m pytest tests

check: $(VENV)/.check ## linters and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

setup: $(VENV)/.test $(VENV)/.check ## an environment for development

# PyTorch first, with its version pinned: the CPU build where the index has one.
$(VENV)/.python: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml setup.py CMakeLists.txt $(NATIVE_SOURCES)
	$(PIP) --editable .
	@touch $@

# The packages of an extra, without building the project again.
extra = $(shell $(PYTHON) -c "import tomllib; print(*map(repr, tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)']))")

$(VENV)/.test: $(VENV)/.installed
	$(PIP) $(call extra,test) $(call extra,serve)
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(PIP) $(call extra,check)
	@touch $@

native: $(VENV)/.installed ## build the native library again, into the source tree
	cmake -S . -B $(BUILD)/native $(GENERATOR) -DPython_EXECUTABLE="$$(command -v $(PYTHON))"
	cmake --build $(BUILD)/native --parallel

# The machine's own Python, whose PyTorch has CUDA; .venv's where it has none.
GPU_PYTHON = $(if $(shell $(PYTHON) -c "import torch" 2>/dev/null && echo yes),$(PYTHON),$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)))
gpu: ## on a CUDA machine: build, test, sanitise and time the GPU kernels (says what it would do where there is no GPU)
	$(GPU_PYTHON) -m benchmarks.gpu

gpu-peers: ## the slow peers: torch.compile and FlexAttention, autotuned
	$(GPU_PYTHON) -m benchmarks.gpu --peers

clean: ## remove what was built, but not .venv
	rm -rf $(BUILD) dist out *.egg-info
