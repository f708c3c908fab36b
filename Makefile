# `make` alone lists the targets.

PYTHON ?= python3
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
READY := .venv/.ready

.PHONY: help venv test check mutants demo bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

venv: $(READY) ## build .venv: raftcore and its plugins, editable, and the tools

# Built anew when a project file changes, so that a dependency that was taken out is really gone.
$(READY): Makefile pyproject.toml $(PLUGINS:=/pyproject.toml)
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --upgrade 'pip>=25.1' # the first that knows dependency groups
	.venv/bin/pip install --quiet --group dev --editable '.[all]' $(foreach plugin,$(PLUGINS),--editable ./$(plugin))
	touch $@

test: $(READY) ## run the tests on all cores and hold the coverage
	.venv/bin/coverage erase
	.venv/bin/coverage run -m pytest --numprocesses auto
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report

check: $(READY) ## format, lint, types, direction of imports
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

mutants: $(READY) ## put known bugs in, one at a time, and see the tests go red; ARGUMENTS=--help says more
	.venv/bin/python tests/mutants/run.py $(ARGUMENTS)

demo: $(READY) ## three nodes on this machine, a leader that dies, and nothing lost
	.venv/bin/raftcore demo

bench: $(READY) ## measure what the core itself costs, in one process
	.venv/bin/python -m benchmarks.inprocess

clean: ## remove everything that was built
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist raftcore-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
