# make up      install what is needed into .venv and run the backend
# make demo    the main job end to end, in a temporary folder
# make test    install what the tests need and run them
# make check   lint, types, import contracts, docs, then every test with the slow ones

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal

.PHONY: up demo test check lint types contracts docs requirements clean help
.DEFAULT_GOAL := help

help:
	@sed -n '1,4s/^# //p' Makefile

up: $(VENV)/.run
	@exec $(BIN)/backstay up

demo: $(VENV)/.run
	@$(BIN)/backstay demo

test: $(VENV)/.dev
	$(PYTEST) -m "not slow"

check: $(VENV)/.dev lint types contracts docs
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/house_rules.py

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(VENV)/site

requirements:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --quiet \
		pyproject.toml requirements/build.in -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --quiet \
		pyproject.toml requirements/build.in --group dev -c requirements/run.txt -o requirements/dev.txt

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Backstay needs Python 3.11 or newer; set PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)

# The files pin everything there is to install, so pip resolves nothing: a release of tomorrow cannot change or break it.
$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing what Backstay needs into $(VENV)"
	@$(PIP) install --no-deps --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) install --no-deps --require-hashes -r requirements/dev.txt
	@$(PIP) check
	@touch $@
