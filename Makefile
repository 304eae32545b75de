# Every target makes the virtual environment itself when it is missing and brings it up to date when a pin
# changed; otherwise that costs a fraction of a second. CI calls the same targets (.ci/run).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH_ARGS ?= --json
GPU_ARGS ?=

export VENV

.DEFAULT_GOAL := help
.PHONY: help run demo test prove check bench bench-engine bench-peers gpu format lock notices clean venv-run venv-dev

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv-run:
	@command -v $(PYTHON) >/dev/null || { echo "\`$(PYTHON)\` is not there: install Python 3.11 or later" >&2; exit 1; }
	@$(PYTHON) requirements/install.py run

venv-dev:
	@command -v $(PYTHON) >/dev/null || { echo "\`$(PYTHON)\` is not there: install Python 3.11 or later" >&2; exit 1; }
	@$(PYTHON) requirements/install.py dev

# `exec`: the gateway takes the place of the shell, so that Ctrl-C and SIGTERM reach it directly.
run: venv-run ## engine and gateway on this machine, with a demo key and snippets to paste (Ctrl-C ends both)
	@exec $(BIN)/douane serve --demo

demo: venv-run ## a short tour: spill-over, residency, refusal, cache, receipts
	@exec $(BIN)/douane demo

test: venv-dev ## the tests, on two processes (PYTEST_ARGS="-k word" narrows)
	@exec $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not proof" $(PYTEST_ARGS)

PROVE_SEED ?= prove
PROOFS := tests/residency tests/egress tests/policy/test_diff.py tests/bench/test_gpu.py tests/local_engine/ops/triton
prove: venv-dev ## the long proofs: nothing leaves the permitted set, each check taken away in turn, every kernel compiled
	RESIDENCY_CASES=12000 RESIDENCY_SEED=$(PROVE_SEED) POLICY_PAIRS=100 \
		$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "proof or larger" $(PROOFS)

check: venv-dev ## linter, formatter, types, and the rules of the tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy requirements/install.py requirements/notices.py .ci/tree.py
	$(BIN)/python .ci/tree.py

bench: venv-dev ## what the gateway costs beside a bare forwarder, as JSON
	@exec $(BIN)/python -m bench.gateway $(BENCH_ARGS)

# No environment: on a machine with a GPU its torch is taken as it is.
gpu: ## the engine on an NVIDIA GPU, checked and measured, by the `python3` that is there
	@exec $(PYTHON) -m bench.gpu $(GPU_ARGS)

bench-engine: venv-dev ## the local engine on this CPU beside llama.cpp and transformers, as JSON
	@exec $(BIN)/python -m bench.engine $(BENCH_ARGS)

bench-peers: venv-dev ## what `make bench-engine` needs: llama.cpp, built once into .peers/ (minutes)
	@exec $(BIN)/python -m bench.peers.build

format: venv-dev ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Keeps the pins that still fit; `make lock LOCK_ARGS=--upgrade` moves all, `--upgrade-package NAME` one.
LOCK_ARGS ?=
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate $(LOCK_ARGS)
COMMON := --extra engine --override requirements/no-torch.txt --no-emit-package torch --no-emit-package triton
# Not `venv-dev`: that would install the old pins beside a changed pyproject.toml first, which cannot agree.
lock: ## new requirements/*.txt with hashes from pyproject.toml and requirements/*.in
	@test -x $(BIN)/uv || $(MAKE) venv-dev
	$(LOCK) pyproject.toml requirements/run.in $(COMMON) -o requirements/run.txt
	$(LOCK) pyproject.toml requirements/run.in requirements/dev.in $(COMMON) -c requirements/run.txt -o requirements/dev.txt
	$(LOCK) requirements/cpu.in -o requirements/cpu.txt
	$(LOCK) requirements/triton-3.6.in -o requirements/triton-3.6.txt
	$(LOCK) requirements/peers.in -o requirements/peers.txt

notices: venv-dev ## THIRD_PARTY_NOTICES.md from the pins and the installed packages
	$(BIN)/python requirements/notices.py

# Not `var`: keys and audit are in there.
clean: ## remove the virtual environment and what tools have made (var/, with keys and audit, stays)
	rm -rf $(VENV) .peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
