# `make demo` and `make test` set up .venv themselves; one of PYTHONS and a package index are all they need.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHONS := 3.11 3.12 3.13
# The first that runs: pyenv has a command for each that it knows, whether or not it is switched on.
PYTHON ?= $(shell for python in $(PYTHONS:%=python%) python3; do $$python -c "" 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# The environment is made anew when what it was made from has changed.
STAMP := .venv/.made-from-$(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
# Given on the command line: a folder or s3:// prefix of photographs, and the file of a face detector.
# Without a detector the photographs must be aligned already. SETTINGS are more words for `hdrface config use tiny`.
export FACES ?=
export DETECTOR ?=
SETTINGS ?=
# A stage of dvc.yaml says `python`: it means this one.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
# DVC keeps pickles there, by default where every user of the machine may write.
export DVC_SITE_CACHE_DIR ?= $(HOME)/.cache/hdrface/dvc
# Two files of tests at a time: what takes long is mostly the wait for other processes.
AT_ONCE := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

.PHONY: help install demo results test test-cluster check format bench serve mlflow lock lock-check audit chromium ffmpeg postgresql

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(STAMP) ## make or update .venv

$(STAMP):
	@echo "Setting up .venv: 30 s to 6 minutes" >&2
	@python=$(BIN)/python; test -x $$python || python="$(PYTHON)"; \
	  found=$$("$$python" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing); \
	  if [[ " $(PYTHONS) " != *" $${found#Python } "* ]]; then \
	    echo "One of Python $(PYTHONS) is needed, '$$python' is $$found: install one, remove .venv and run 'make PYTHON=python3.12'" >&2; exit 1; \
	  fi; \
	  test -x $(BIN)/uv || { "$$python" -m venv .venv && $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'; }
	@# cv2 anew: removing the other OpenCV of an older environment takes its files along.
	@# Bytecode now, once: some systems forbid writing it later, and each of the many processes would compile anew.
	@$(BIN)/uv pip sync --quiet --compile-bytecode --reinstall-package opencv-python-headless --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -f .venv/.made-from-* && touch $@

demo: $(STAMP) ## run the whole line [FACES=DIR [DETECTOR=FILE]] [SETTINGS='KEY=VALUE …'], print the results
	@set -- tiny $(SETTINGS); \
	  if [ -n "$$FACES" ]; then set -- "$$@" "faces.source=$$FACES"; fi; \
	  if [ -n "$$DETECTOR" ]; then set -- "$$@" "faces.detector=$$DETECTOR"; \
	  elif [ -n "$$FACES" ] && [ ! -e "$$FACES/landmarks.csv" ]; then set -- "$$@" faces.aligned=true; fi; \
	  hdrface config use "$$@"
	@mkdir -p -m 700 "$$DVC_SITE_CACHE_DIR" && chmod 700 "$$DVC_SITE_CACHE_DIR"
	@python -m components.cluster dvc repro # all stages share one local Ray
	@hdrface results

results: $(STAMP) ## print the last results again
	@hdrface results

test: $(STAMP) chromium ffmpeg ## run the test suite, but for what needs a cluster
	@pytest $(AT_ONCE)

test-cluster: $(STAMP) postgresql ## run what takes minutes: lines from end to end, killed trainings, a small cluster with S3 and MLflow
	@pytest -m cluster $(AT_ONCE)

check: $(STAMP) ## lint, formatting, types, import contracts: the same as CI
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: $(STAMP) ## let ruff format and sort imports
	@ruff format .
	@ruff check --fix .

bench: $(STAMP) ## run the benchmarks, but for full_size (an hour, 16 GB), write benchmarks/results/*.json
	@for name in $(filter-out __init__ machine timing paper_training random_weights random_restorer full_size,$(basename $(notdir $(wildcard benchmarks/*.py)))); do \
	  echo "benchmarks.$$name" >&2; python -m benchmarks.$$name; done

serve: $(STAMP) ## serve the demo's models over HTTP on this machine
	@hdrface serve

mlflow: $(STAMP) ## open the runs of the local database in a browser
	@echo "The runs, best first: http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&orderByKey=metrics.%60psnr_gain%60&orderByAsc=false"
	@mlflow ui --backend-store-uri sqlite:///mlflow.db --workers 1

lock: $(STAMP) ## resolve pyproject.toml into requirements.lock
	@uv pip compile pyproject.toml --extra dev --universal --python-version $(firstword $(PYTHONS)) --generate-hashes --no-header --no-annotate -q -o requirements.lock

# Pure Python that its authors publish as source only: it is built where it is installed, without a compiler.
SOURCE_ONLY := antlr4-python3-runtime openai-clip
lock-check: $(STAMP) ## check that there are wheels of the lock for every Python, on Linux and macOS 14
	@for python in $(PYTHONS); do for platform in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu aarch64-apple-darwin; do \
	  echo "Python $$python, $$platform"; \
	  MACOSX_DEPLOYMENT_TARGET=14.0 uv pip install --dry-run --quiet --no-deps --only-binary :all: $(SOURCE_ONLY:%=--no-binary %) \
	    --python-version $$python --python-platform $$platform --target .venv/empty -r requirements.lock; \
	done; done

audit: $(STAMP) ## look for known faults of the lock's packages; needs a network
	@uv tool run --from 'pip-audit>=2.9,<3' pip-audit --no-deps --disable-pip --requirement requirements.lock

# The target's package of Debian, unless the first argument succeeds; without it, tests are skipped and say so.
define from_debian
	@{ $(1); } >/dev/null 2>&1 \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	       && (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $@) >/dev/null 2>&1; } \
	  || echo "No $@ here and no way to install it: $(2) will be skipped." >&2
endef

chromium:
	$(call from_debian,command -v chromium chromium-browser google-chrome,the page tests)

ffmpeg:
	$(call from_debian,command -v ffmpeg,the tests of videos)

postgresql: # Debian keeps its programs out of PATH
	$(call from_debian,ls /usr/lib/postgresql/*/bin/initdb || command -v initdb,the tests of an MLflow server)
