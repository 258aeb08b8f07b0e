# Every target does its own set-up: a virtual environment in .venv with the exact versions of requirements/lock.txt.
# It is made once and again only when the lock changes. torch comes from your usual index, in the build that is there;
# another one (for the CPU alone, another CUDA): `make setup TORCH_INDEX=URL`, with the URL that PyTorch's page names.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := true

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format up down bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## the virtual environment, from the lock

$(READY): requirements/lock.txt pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.version_info < (3, 11) and \
	  sys.exit("error: $(PYTHON) is %d.%d, expected 3.11 or newer; give one with PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (2.6 GB, some minutes, once)"
	@$(PIP) --no-deps --constraint requirements/lock.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@$(PIP) --no-deps --requirement requirements/lock.txt
	@$(PIP) --constraint requirements/lock.txt torch  # the CUDA libraries, where torch came with CUDA
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)  ## the whole recipe on a small synthetic world, on the CPU
	@$(BIN)/sam2-pipeline run recipe=smoke

test: $(READY)  ## the tests; `make test-slow` runs the rest
	@$(BIN)/python -m pytest

test-slow: $(READY)  ## the slow tests, two files at a time: much of their time is waiting
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

lint: $(READY)  ## ruff, formatting, types, and the floors of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)  ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

up: $(READY)  ## Prefect server and worker with all deployments, MLflow, TensorBoard, on loopback
	@$(BIN)/sam2-pipeline up

down: $(READY)  ## stop what `make up` started
	@$(BIN)/sam2-pipeline down

bench: $(READY)  ## the benchmarks, as ratios within one run
	@$(BIN)/python -m benchmarks

clean:  ## the caches and build leftovers (runs/ stays)
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache *.egg-info
