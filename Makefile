# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
BENCH_ARGS ?=
TRAIN_OUTPUT ?= .tiny

# One torch thread per process: two on two busy cores are many times slower.
export OMP_NUM_THREADS ?= 1
export SAM2_BUILD_CUDA := 0
export RAY_USAGE_STATS_ENABLED := 0

GOLDEN ?= ../shared/golden

.PHONY: help venv demo test parity lint format bench bench-track bench-semantic bench-multimodal train-tiny lock readme clean

help:
	@echo "make demo    set up, generate six clips, run refer_corpus on them, show the table"
	@echo "make test    set up, run every test"
	@echo "make parity  compare SAM2 with upstream's predictor, SAMWISE and MemorySAM with golden vectors where they lie in GOLDEN"
	@echo "make lint    ruff, mypy --strict, import contracts"
	@echo "make bench   ratios against named opponents, in one run"
	@echo "make bench-track, bench-semantic, bench-multimodal   a method's own ablations; options in BENCH_ARGS"
	@echo "make train-tiny   train the embedded model from seeds, by step count, into TRAIN_OUTPUT; goes on where it stopped"
	@echo "make venv    set up .venv from requirements.lock"
	@echo "make lock    resolve requirements.lock again"
	@echo "make readme  write the source tree into README.md from the files' first sentences"
	@echo "make clean   remove .venv, caches and demo output"

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "masklake needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --build-constraint requirements.lock \
		-r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(STAMP)

demo: venv
	$(BIN)/masklake demo

test: venv
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

parity: venv
	$(BIN)/python -m tests.parity sam2
	@if [ -d "$(GOLDEN)/samwise/open" ]; then \
		$(BIN)/python -m tests.parity samwise --cases "$(GOLDEN)/samwise/open"; \
	else echo "parity samwise: not run, no golden vectors at $(GOLDEN)"; fi
	@if [ -d "$(GOLDEN)/memorysam/open" ]; then \
		$(BIN)/python -m tests.parity memorysam --cases "$(GOLDEN)/memorysam/open"; \
	else echo "parity memorysam: not run, no golden vectors at $(GOLDEN)"; fi

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv
	$(BIN)/python -m tests.bench

bench-track: venv
	$(BIN)/python -m tests.bench.track $(BENCH_ARGS)

bench-semantic: venv
	$(BIN)/python -m tests.bench.semantic $(BENCH_ARGS)

bench-multimodal: venv
	$(BIN)/python -m tests.bench.multimodal $(BENCH_ARGS)

train-tiny: venv
	$(BIN)/python jobs/train_tiny.py --output "$(TRAIN_OUTPUT)" --resume

lock:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
		--python-version 3.11 --extra run --extra s3 --extra train --extra report --extra dev \
		pyproject.toml --output-file requirements.lock

readme: venv
	$(BIN)/python -m tests.readme_tree --write

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .demo dist build
