# Every target does its own set-up. Variables, each with an example:
#   PORT=8001                           where the demo listens
#   PYTHON=python3.12                   the interpreter for a new environment
#   VENV=.venv-py312                    the environment's folder
#   DJANGO='django>=5.2,<5.3'           a Django release other than the newest
#   JOBS=1                              how many processes share the tests; they mostly wait for servers
#   ARGS='-k restore -x'                more arguments for pytest or the benchmarks
#   DATABASE_URL=..., REDIS_URL=...     run on these instead of SQLite and memory
#   OAUTH=1                             the demo is an authorization server too
VENV ?= .venv
PYTHON ?=
DJANGO ?=
PORT ?= 8000
OAUTH ?=
JOBS ?= 3
ARGS ?=

PY := $(VENV)/bin/python
PREPARE := PYTHON='$(PYTHON)' DJANGO='$(DJANGO)' sh scripts/prepare-venv '$(VENV)'

.DEFAULT_GOAL := help
.PHONY: help demo install test test-long coverage lint format types layers migrations wheel conformance bench check clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

demo: ## the demo server in the foreground, with a filled database and an admin login
	@$(PREPARE) server $(if $(filter 1 true yes on,$(OAUTH)),oauth)
	@PORT='$(PORT)' OAUTH='$(OAUTH)' exec "$(PY)" manage.py demo

install: ## the environment with everything for development
	@$(PREPARE) dev

test: install ## the tests; on DATABASE_URL and REDIS_URL where set
	@"$(PY)" -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: install ## the tests with large counts, and the whole matrix of servers, entries and clients
	@"$(PY)" -m pytest -m long $(ARGS)

coverage: install ## the tests with branch coverage, server processes included
	@"$(PY)" -m coverage erase
	@"$(PY)" -m coverage run -m pytest $(ARGS)
	@"$(PY)" -m coverage combine --quiet
	@"$(PY)" -m coverage report

lint: install ## ruff: rules and format
	@"$(PY)" -m ruff check .
	@"$(PY)" -m ruff format --check .

format: install ## ruff: mend what it can
	@"$(PY)" -m ruff check --fix .
	@"$(PY)" -m ruff format .

types: install ## mypy, strict
	@"$(PY)" -m mypy

layers: install ## import-linter: imports point one way
	@"$(VENV)/bin/lint-imports"

migrations: install ## no model change without its migration
	@"$(PY)" manage.py makemigrations --check --dry-run

wheel: install ## build the package and try it in a clean environment
	@"$(PY)" scripts/check_wheel.py

conformance: install ## the official conformance suite: each revision, either entry
	@"$(PY)" scripts/conformance.py

check: lint types layers migrations test ## all of what a change must pass

bench: install ## the benchmarks, side by side with other servers
	@"$(PY)" -m benchmarks $(ARGS)

clean: ## remove caches and build products (environments and databases stay)
	rm -rf build dist htmlcov .coverage .coverage.* .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv\* -prune -o -name .git -prune -o -name node_modules -prune -o -name __pycache__ -type d -exec rm -rf {} +
