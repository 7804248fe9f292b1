# make quickstart and make test are all that a fresh clone needs; both install into .venv first.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
CODE := rlaif_dpo tests benchmarks
LLAMA := .venv-llama/bin/python
BESIDE := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: install quickstart test test-fast test-llama lint format schema docs-evidence

install: .venv/.installed

# torch goes first and alone: where pip is offered a CPU build of the pinned version, it takes that one.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "rlaif-dpo needs Python 3.11 or newer, and \
	$(PYTHON) is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	@echo 'Installing into .venv (once; a few minutes)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install $(shell grep '^torch==' constraints.txt)
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install
	$(BIN)/rlaif-dpo run recipes/quickstart.yaml

test: lint
	$(BIN)/python -m pytest $(BESIDE)

test-fast: install
	$(BIN)/python -m pytest $(BESIDE) -m 'not slow'

# The tests that run llama.cpp. It is compiled for them, once: some minutes, cmake and a C++ compiler.
test-llama: install .venv-llama/.installed
	RLAIF_DPO_LLAMA_CPP=$(CURDIR)/$(LLAMA) $(BIN)/python -m pytest -m llama_cpp tests/export tests/engines/endpoint

.venv-llama/.installed: constraints.txt
	@echo 'Compiling llama.cpp into .venv-llama (once; some minutes)'
	@test -x $(LLAMA) || $(PYTHON) -m venv .venv-llama
	@CMAKE_ARGS=-DLLAVA_BUILD=OFF $(LLAMA) -m pip --disable-pip-version-check -qq install -c constraints.txt 'llama-cpp-python[server]'
	@touch $@

lint: install
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

schema: install
	$(BIN)/python -c 'import json; from rlaif_dpo.recipe import json_schema; print(json.dumps(json_schema(), indent=2))' > recipes/recipe.schema.json

docs-evidence: install
	$(BIN)/rlaif-dpo run recipes/quickstart.yaml --root build/evidence name=sample prompts.revise=80 prompts.pairs=80 prompts.evaluate=80 revise.rounds=4
