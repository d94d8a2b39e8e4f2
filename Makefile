# Two commands matter: `make train` and `make test`. Both set up what they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
PART ?=

.PHONY: help train check test proof record bench bench-gpu clean

help:
	@echo "make train             environment, data, a small language model, and its report (about ten minutes)"
	@echo "make test              the tests"
	@echo "make check             style, types, import layers"
	@echo "make proof PART=...    the longer claims of a package, against the bars in proofs.toml"
	@echo "make record PART=...    evidence that takes longer still (quality, spikes), resumable, as dated rows in docs/records"
	@echo "make bench             speed and quality against peers, one JSON line per figure"
	@echo "make bench-gpu         tokens/s, MFU and memory on this machine's GPU"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "groundup needs Python 3.11 or newer; give one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-evaluate.txt requirements-slurm.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

$(BENCH)/.done: requirements-bench.txt requirements-evaluate.txt requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-bench.txt
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps litdata tifffile obstore
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check boto3 requests
	@touch $@

train: $(VENV)/.run
	$(BIN)/python prepare.py
	$(BIN)/python train.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --durations=25

proof: $(VENV)/.dev $(if $(filter quality,$(PART)),$(BENCH)/.done)
	$(BIN)/python tests/proofs/run.py $(PART)

record: $(if $(filter quality,$(PART)),$(BENCH)/.done,$(VENV)/.dev)
	@test -n "$(PART)" || { echo "usage: make record PART=quality, or PART=spikes"; exit 2; }
	$(if $(filter quality,$(PART)),$(BENCH),$(VENV))/bin/python benchmarks/$(PART).py --resume

bench: $(BENCH)/.done
	$(BENCH)/bin/python benchmarks/input.py
	$(BENCH)/bin/python benchmarks/train_step.py
	$(BENCH)/bin/python benchmarks/quality.py
	$(BENCH)/bin/python benchmarks/evaluate.py
	$(BENCH)/bin/python benchmarks/generate.py

bench-gpu:
	$(PYTHON) benchmarks/gpu.py

clean:
	rm -rf $(VENV) $(BENCH)
