# From a fresh clone: `make demo` shows the whole way of the data, `make test` passes the tests. Both set everything up.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
MODELS := $(CURDIR)/build/models
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)

export STILLHOUSE_MODELS ?= $(MODELS)  # where `--model smollm2` is looked for

.NOTPARALLEL:
.PHONY: help setup demo test test-all lint types sizes check check-all bench tiny tiny-start tiny-eval clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## make .venv with everything pinned in constraints.txt

$(READY): pyproject.toml constraints.txt $(wildcard kernels/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "stillhouse needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "setting up $(VENV) (once; a few minutes when nothing is cached)"
	@$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ]; then \
	  $(PIP) install -c constraints.txt 'torch==$(TORCH)+cpu' 2>/dev/null || \
	  $(PIP) --retries 1 install -c constraints.txt 'torch==$(TORCH)+cpu' \
	    --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null || \
	  echo "no CPU-only build of torch within reach: the one with CUDA will be fetched"; fi
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -q stillhouse  # as for any installed package: a command starts a second sooner
	@$(BIN)/stillhouse models fetch smollm2 || echo "without it, what needs the small chat model says so; all else works"
	@touch $@

demo: export OMP_NUM_THREADS = 1  # the same rounding, so the same verdict, every time
demo: $(READY)  ## consolidate a memory and answer from the weights alone
	@$(BIN)/stillhouse demo

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test test-all: export HF_HUB_OFFLINE = 1
test: $(READY)  ## the tests that take seconds, on all cores
	@$(PYTEST) -m "not slow"

test-all: $(READY)  ## all tests: also killed processes, clusters, real weights, every instruction set
	@$(PYTEST)

lint: $(READY)  ## formatting and lint rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(READY)  ## strict types
	@$(BIN)/mypy

sizes: $(READY)  ## lines per file, lines per function, statements per package, bytes of the shipped model
	@$(BIN)/python -m dev.sizes

check: lint types sizes test  ## everything that has to hold before a commit

check-all: lint types sizes test-all  ## the same with all tests: what a machine runs on every change

bench: $(READY)  ## every benchmark, one after another; says at the end which missed a bar
	@missed=; for script in benchmarks/*.py; do \
	  case "$$script" in */_*|*'*'*) continue;; esac; \
	  echo "== $$script"; $(BIN)/python "$$script" || missed="$$missed $$script"; done; \
	  test -z "$$missed" || { echo "missed:$$missed" >&2; exit 1; }

tiny: $(READY)  ## train the model that ships, into build/tiny
	@$(BIN)/python -m tiny.train build/tiny

tiny-start: $(READY)  ## learn where students of the model that ships begin, into build/start
	@$(BIN)/python -m tiny.start build

tiny-eval: $(READY)  ## measure the model that ships on memories it has never seen
	@$(BIN)/python -m tiny.evaluate

clean:  ## remove everything that make made, except build/tiny, which takes an hour, and fetched models
	@find build -mindepth 1 -maxdepth 1 ! -name tiny ! -name models -exec rm -rf {} + 2>/dev/null || true
	@rm -rf $(VENV) dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
