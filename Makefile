# Every target works with no step before it: what it needs is made first, once.
# Only make and Python 3.11 or newer have to be there; on Debian, as root or with passwordless
# sudo, missing pieces (python3-venv, a broker) are installed.

.DEFAULT_GOAL := help
.SUFFIXES:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A process for each core, four at most: every one of them may start brokers. A file's tests stay together.
SIDE_BY_SIDE = -n auto --maxprocesses=4 --dist=loadfile
# Arguments for pytest, the benchmark and the chaos run: make test ARGS="-k ladder -x"
ARGS ?=
# What a run in bad weather takes: whatever works on the run's broker, but for what is about processes and their ends.
WEATHER := $(addprefix tests/acceptance/test_,$(addsuffix .py,bad_input long_tasks redelivery results retries revoke)) \
	tests/test_app.py tests/test_delays.py tests/cli/test_revoke.py tests/cli/test_topology.py

# Nothing is asked, and no home folder is needed.
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

.PHONY: help setup fmt lint type layers test test-unit test-weather test-all chaos bench bench-peers demo up down clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "; print "make TARGET, where TARGET is one of:\n"} \
		/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## Make the virtual environment in .venv and install everything into it

fmt: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## Check the types
	$(BIN)/mypy

layers: $(READY) ## Check who imports whom
	$(BIN)/lint-imports

test: $(READY) ## Run all tests; finds or starts a RabbitMQ
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-unit: $(READY) ## Run the tests that need no broker and start no process
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not broker and not acceptance and not process" $(ARGS)

test-weather: $(READY) ## Run the functional tests with connections that are cut, frozen and slowed at random
	$(BIN)/python -m pytest --weather=random $(WEATHER) $(ARGS)

test-all: $(READY) ## Run what CI runs: linters, and the tests on RabbitMQ 3.10 and 4.x
	.ci/run

chaos: $(READY) ## Break a system of workers on purpose and account for every task
	$(BIN)/amqtask chaos $(ARGS)

bench: $(READY) ## Measure the inner parts, then amqtask beside Celery; finds or starts a RabbitMQ
	$(BIN)/python -m benchmarks.micro
	$(BIN)/python -m amqtask.broker.run -- $(BIN)/python -m benchmarks --reps 1 $(ARGS)

bench-peers: $(READY) ## The same beside Celery, Dramatiq, taskiq and FastStream, each in .venv-bench
	$(BIN)/python -m amqtask.broker.run -- $(BIN)/python -m benchmarks --peers celery,dramatiq,taskiq,faststream $(ARGS)

demo: $(READY) ## Run the example shop on real files; finds or starts a RabbitMQ
	@$(BIN)/python -m amqtask.broker.run -- $(BIN)/python examples/shop/demo.py $(ARGS)

up: $(READY) ## Start a private RabbitMQ for development and show its URL
	@$(BIN)/amqtask broker start

down: $(READY) ## Stop the private RabbitMQ of `make up`
	@$(BIN)/amqtask broker stop

clean: ## Remove what was made here: the virtual environments and caches
	rm -rf $(VENV) .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again when the dependencies change.
$(READY): pyproject.toml
	@.ci/venv $(VENV)
