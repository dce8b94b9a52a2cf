# Works on a machine with make and Python 3.11 or 3.12; see `make help`.
.DEFAULT_GOAL := help
SHELL := /bin/sh

BIN := .venv/bin
# Another Python: make setup PYTHON=/path/to/python3.12
export PYTHON
# CUDA libraries are installed where the NVIDIA driver works; GPU=1 and GPU=0 overrule that.
GPU ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo 0)
SETUP := scripts/setup.sh $(if $(filter 1,$(GPU)),gpu)
# Options of `local-trainer train`: make train ARGS="--track Oval_track --minutes 3"
ARGS ?=

.PHONY: help setup setup-ray setup-dev notebook train test test-slow images test-stack check docs lock clean

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

setup:  ## Set up .venv (the others do it themselves)
	@$(SETUP)

setup-ray:  ## Set up .venv with Ray: several models at once, sweeps, clusters
	@$(SETUP) ray

setup-dev:  ## Set up .venv with the development tools
	@$(SETUP) dev ray notebook

notebook:  ## Open the notebooks in JupyterLab
	@$(SETUP) notebook ray
	@$(BIN)/jupyter lab --notebook-dir notebooks

train: setup  ## Train a model; ARGS="--track … --minutes …"
	@$(BIN)/local-trainer train $(ARGS)

test: setup-dev  ## Run the tests (no Docker, GPU or network needed)
	@$(BIN)/pytest -q -n auto --dist loadfile -m "not slow and not docker and not gazebo and not gpu" $(ARGS)

test-slow: setup-dev  ## Run the tests that train a model
	@$(BIN)/pytest -q -n 2 --dist loadfile -m "slow and not docker and not gazebo and not services and not gpu" $(ARGS)

images: setup  ## Build the images of the container stack (once: sudo scripts/prepare-docker)
	@$(BIN)/local-trainer stack build

test-stack: setup-dev  ## Run the tests that need the images: Gazebo, Redis, MinIO in containers
	@$(BIN)/pytest -q -m "(docker or gazebo or services) and not gpu" $(ARGS)

check: setup-dev  ## Check format, style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: setup-dev  ## Write docs/cli.md and docs/config.md anew
	@$(BIN)/python scripts/make_docs.py

UV := .venv/.bootstrap/bin/uv
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --build-constraints requirements/build.lock
lock: setup  ## Resolve the requirement files anew; ARGS="--upgrade" takes newer versions
	@$(COMPILE) $(ARGS) requirements/bootstrap.in -o requirements/bootstrap.lock
	@$(COMPILE) $(ARGS) requirements/build.in -o requirements/build.lock
	@$(COMPILE) $(ARGS) pyproject.toml -o requirements/runtime.lock
	@$(COMPILE) $(ARGS) pyproject.toml --extra ray -c requirements/runtime.lock -o requirements/ray.lock
	@$(COMPILE) $(ARGS) pyproject.toml --extra notebook -c requirements/ray.lock -o requirements/notebook.lock
	@$(COMPILE) $(ARGS) pyproject.toml --group dev -c requirements/ray.lock -c requirements/notebook.lock -o requirements/dev.lock
	@$(COMPILE) $(ARGS) pyproject.toml --extra gpu -c requirements/runtime.lock -o requirements/gpu.lock

clean:  ## Remove .venv and caches; runs stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
