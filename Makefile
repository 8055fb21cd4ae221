# Needs make and Python 3.11 or newer; everything else goes into .venv. `make` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# What is installed depends on these two files alone: the project itself is installed editable.
REQUIREMENTS := pyproject.toml constraints.txt

# Tests that export, compile and train nothing.
QUICK_TESTS := tests/test_house.py tests/test_style.py tests/model --ignore=tests/model/operators \
  --ignore=tests/model/test_fused_reading.py tests/bundle/disk tests/bundle/test_state_spec.py \
  tests/training/test_tasks.py tests/runtimes/test_generation.py tests/runtimes/test_state_values.py \
  tests/runtimes/bench/test_growth.py tests/runtimes/bench/test_timing.py tests/runtimes/bench/test_machine.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all every-test check fuzz lint docs man examples bench bench-more gpu-check faults clean

FUZZ_SECONDS ?= 300
# onnxruntime reports to its maker unless this is set before it is imported; docs/security.md has the rest.
export ORT_DISABLE_TELEMETRY ?= 1

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

demo: $(VENV)/installed-export ## train, export, verify and generate, in about a minute; writes demo/
	$(BIN)/causalrn-export demo -o demo --overwrite

test: $(VENV)/installed-dev ## all checks and tests, as CI runs them; of tests with many cases some of them
	$(MAKE) --no-print-directory -j2 lint every-test

test-all: $(VENV)/installed-dev ## the same with every case, in an hour: before a release, after changes to what they check
	$(MAKE) --no-print-directory -j2 lint every-test CASES=--every-case

# Beside lint, whose mypy takes one core for minutes. Tests run make, too, which is not to know of this one. Files stay
# together: what a module's tests share is made once.
every-test: $(VENV)/installed-dev
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(BIN)/python -m pytest -n 2 --dist loadfile $(CASES)

check: lint ## ruff, mypy and the quick tests, in under a minute
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(QUICK_TESTS)

fuzz: $(VENV)/installed-dev ## mutate what strangers may hand over, FUZZ_SECONDS (300) per parser
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -q -s tests/test_fuzz.py

lint: $(VENV)/installed-dev ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-dev ## the documentation as a site, into build/docs; warnings are errors
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/python docs/make_architecture_picture.py
	$(BIN)/sphinx-build -E -W --keep-going -n -q docs build/docs
	@echo "open build/docs/index.html"

man: $(VENV)/installed-dev ## the command line's manual page, build/man/causalrn-export.1
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/sphinx-build -E -W --keep-going -q -b man docs build/man

examples: $(VENV)/installed-dev ## run what is in examples/; writes build/examples
	$(BIN)/python examples/train_export_verify.py build/examples
	$(BIN)/python examples/onnxruntime_only.py build/examples/bundle abc
	$(BIN)/python examples/own_model/verify_and_export.py build/examples/own
	$(BIN)/python -m pytest -q tests/test_recipes.py

bench: $(VENV)/installed-dev ## what tokens cost, beside peers and floor; writes docs/benchmarks.md, in about ten minutes
	$(BIN)/python benchmarks/record.py

bench-more: $(VENV)/installed-dev ## graphs written by hand, C, browsers, training memory, error bounds
	$(BIN)/python benchmarks/step_latency.py
	$(BIN)/python benchmarks/native_latency.py
	$(BIN)/python benchmarks/web_latency.py
	$(BIN)/python benchmarks/training_memory.py
	$(BIN)/python benchmarks/pair_sum.py
	$(BIN)/python benchmarks/error_bound.py

gpu-check: $(VENV)/installed-dev ## on an NVIDIA GPU: sums over pairs, engines; writes gpu_check.json and triton_pair_sum.json
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/triton_pair_sum.py --json triton_pair_sum.json
	$(BIN)/python benchmarks/gpu_check.py

faults: $(VENV)/installed-dev ## Ctrl-C, SIGTERM and a full disk at every write of every command, in about ten minutes
	CAUSALRN_ALL_FAULTS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/cli/test_faults.py

clean: ## remove .venv, demo/ and what tools left behind
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first of python3.11 and python3 that runs and is new enough. The module venv may be a package of its own.
$(BIN)/python:
	@for python in python3.11 python3; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "making $(VENV) with $$python"; \
	  $$python -m venv --clear $(VENV) && exit 0; \
	  rm -rf $(VENV); \
	  echo "Error: '$$python -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; \
	done; \
	echo "Error: Python 3.11 or newer is needed; found: $$(python3 --version 2>&1 || echo none)" >&2; \
	exit 1

# setuptools comes first and builds the project without isolation: the pinned one, not the newest.
$(VENV)/installed-export: $(REQUIREMENTS) | $(BIN)/python
	@echo "installing into $(VENV) (torch is about 200 MB, more where pip picks its CUDA build)..."
	@$(PIP) install -c constraints.txt setuptools
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[export]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-export
	@echo "installing the development tools into $(VENV)..."
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[export,dev]'
	@touch $@
