# Every target does its own set-up; the machine needs Python 3.11 or newer, and make. `make help` lists them.

READY := .venv/.ready
PYTHON_FOLDERS := src tests benchmarks tools
SHOP := build/shop
COMPILE = tools/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url $(LOCK)

# The service that `make run` writes lives in the repository's own environment.
export VIRTUAL_ENV := $(CURDIR)/.venv
export PATH := $(VIRTUAL_ENV)/bin:$(PATH)
# Tests start hundreds of processes: each would compile all libraries where bytecode may not be kept.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/bytecode

.PHONY: help run test check prove lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

run: $(READY) ## write an example service to build/shop, once, and serve it
	@test -d $(SHOP) || backstay new $(SHOP)
	@cd $(SHOP) && exec backstay dev

test: $(READY) ## run the tests; ARGS="-k health -x" goes to pytest
	@pytest $(ARGS)

check: $(READY) ## lint, format, types, the floors between the rooms, the tree
	@ruff check .
	@ruff format --check .
	@mypy --strict $(PYTHON_FOLDERS)
	@rm -rf build/check && backstay new build/check/shop >/dev/null 2>&1
	@cd build/check/shop && ruff check --quiet . && ruff format --check --quiet . && MYPYPATH=src mypy --strict src tests migrations
	@lint-imports --no-logo
	@tools/check-tree

prove: $(READY) ## run every proof at full length, then the benchmarks
	@BACKSTAY_PROVE=1 pytest -m proof $(ARGS)
	@set -e; for script in benchmarks/*.py; do echo "$$script"; python "$$script"; done

lock: ## rewrite requirements.lock from pyproject.toml; LOCK=--upgrade takes newer versions
	@python=$$(tools/find-python) && dependencies=$$("$$python" tools/fingerprint.py) && \
		$(COMPILE) --all-extras --group dev --output-file requirements.lock pyproject.toml \
		--custom-compile-command "make lock (dependencies $$dependencies)"
	@echo uv | $(COMPILE) --output-file tools/uv.txt --custom-compile-command "make lock" -

clean: ## remove everything that make, the tools and the tests wrote
	rm -rf .venv .cache build dist .coverage* .hypothesis .*_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Older than its Python: made anew. Older than the lock: brought in step with it, with nothing beside it.
.venv/bin/python:
	@echo "Setting up .venv, once." >&2
	@python=$$(tools/find-python) && tools/uv venv --quiet --allow-existing --python "$$python" .venv

$(READY): .venv/bin/python requirements.lock pyproject.toml
	@tools/uv pip sync --quiet --require-hashes requirements.lock
	@tools/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
