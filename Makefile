# make demo | test | check | soak | bench | lock | clean        each with ARGS="…", for example: make demo ARGS=--once
# Needs Python 3.11 or newer with its venv module, and make. Everything else comes into .venv, pinned by hash.

.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.14 python,$(if $(shell \
	$(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev
# with three at once a fifth faster, and tests of deadlines grow restless
JOBS ?= 2
ARGS ?=

.PHONY: help demo test check soak bench lock clean

help:
	@echo 'make demo     a real agent, live in the browser (ARGS=--once: without staying)'
	@echo 'make test     all tests, two at once, against real servers (JOBS=0: one by one)'
	@echo 'make check    ruff and mypy'
	@echo 'make soak     the long tests: minutes to hours'
	@echo 'make bench    measurements (ARGS="append": one of them)'
	@echo 'make lock     pin the newest allowed versions of all packages again'
	@echo 'make clean    remove what these commands made, .venv and the data of the demo included'

demo: $(RUNTIME)
	@$(BIN)/tailrace demo $(ARGS) || [ $$? -eq 130 ]  # 130: Ctrl-C, which is how it is meant to end

test: $(DEV)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(ARGS)

soak: $(DEV)
	@$(BIN)/python -m pytest -m soak --timeout 0 $(ARGS)

bench: $(DEV)
ifneq ($(ARGS),)
	@$(BIN)/python -m bench $(ARGS)
else
	@missed=0; for name in append feed process react ship; do $(BIN)/python -m bench $$name || missed=1; done; exit $$missed
endif

# One environment for all: the lock of the tests contains the runtime's, version for version.
$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed; none of python3, python3.11 … is. Name one: make PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'Python has no venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }

$(RUNTIME): requirements.lock requirements-build.lock pyproject.toml | $(VENV)/bin/python
	@echo 'Installing into $(VENV) …' >&2
	@$(PIP) install --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo 'Installing what tests need into $(VENV) …' >&2
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# All platforms and Python versions at once; the first is the widest, the others take its versions.
# Extras stay in the names: pip takes `coverage[toml]`, which pytest-cov asks for, for another requirement than `coverage`.
UV := $(BIN)/python -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-header --no-annotate
lock: | $(VENV)/bin/python
	@$(PIP) install uv
	@$(UV) --upgrade --extra testing --extra typed --group dev -o requirements-dev.lock
	@$(UV) -c requirements-dev.lock -o requirements.lock
	@$(UV:pyproject.toml=) -c requirements-dev.lock --group build -o requirements-build.lock

clean:
	rm -rf $(VENV) .tailrace .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
