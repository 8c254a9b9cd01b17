PYTHON ?= python3
CMAKE ?= cmake
BUILD := build
GENERATOR := $(if $(shell command -v ninja),-G Ninja)

.PHONY: native ctest sanitize wheel

native: ## build the native library into the source tree
	$(CMAKE) -S . -B $(BUILD)/native $(GENERATOR) -DPython_EXECUTABLE="$$(command -v $(PYTHON))"
	$(CMAKE) --build $(BUILD)/native --parallel
