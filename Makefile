# `make simulate` and `make test` do everything on a fresh machine: they make the virtual
# environment, install what is pinned in constraints.txt, and run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help install simulate test lint typecheck unit test-slow wheel spin fuzz vectors \
	bench-secure report-check plant ray flower flower-simulation flower-transport test-flower clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U -c constraints.txt pip
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/.installed  ## create .venv and install the package with its development tools

simulate: install  ## the main job: Pilot, nine clients, secure aggregation, embedded default
	$(BIN)/python -m pilot_secure.simulate --secure-agg $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: install
	$(BIN)/mypy

unit: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test: lint typecheck unit  ## lint, type-check and test

test-slow: install  ## what takes minutes: every drop-out pattern, whole runs over several seeds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

wheel: install  ## build the wheel and run it in a fresh environment outside the tree
	$(BIN)/python -m build --wheel --outdir dist
	BIN=$(abspath $(BIN)) sh tests/wheel.sh

spin: install  ## search the unmasking phase exhaustively (installs the Debian package spin)
	command -v spin >/dev/null || { apt-get update -q && apt-get install -yq spin gcc; }
	$(BIN)/python tests/spin/run.py

fuzz: install  ## feed the protocol machines hostile bytes for a minute (installs atheris)
	$(BIN)/python -m pip install -q atheris
	corpus=$$(mktemp -d) && $(BIN)/python tests/fuzz/machines.py --seeds $$corpus \
	&& $(BIN)/python tests/fuzz/machines.py -max_total_time=60 -artifact_prefix=$$corpus/ $$corpus

report-check: install  ## the audit's HTML report in a headless Chromium (installs both)
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -yq chromium; }
	$(BIN)/python -m pip install -q -c constraints.txt playwright
	PYTHONPATH=.:tests/audit:tests/protocols $(BIN)/python tests/audit/report_check.py

plant: install  ## record a run with one rule of the audit broken: RULE=T01 OUT=folder
	PYTHONPATH=.:tests/audit:tests/protocols $(BIN)/python tests/audit/planting.py $(RULE) $(OUT)

build/ray/.installed: pyproject.toml constraints.txt
	test -x build/ray/bin/python || $(PYTHON) -m venv build/ray
	build/ray/bin/python -m pip install -q -c constraints.txt torch
	build/ray/bin/python -m pip install -q -c constraints.txt -e '.[dev,ray]'
	touch $@

ray: build/ray/.installed  ## test engine `ray` (installs Ray beside a second copy of everything)
	OMP_NUM_THREADS=1 build/ray/bin/python -m pytest tests/engines/test_ray.py tests/test_ray_runs.py

vectors: install  ## write the aggregation's test vectors again and verify them independently
	$(BIN)/python tests/vectors/make_aggregation.py
	$(BIN)/python tests/vectors/verify_aggregation.py

# Flower needs older versions of rich, typer and pycryptodome: an environment of its own
FLOWER := build/flower/bin/python
build/flower/.installed: pyproject.toml constraints-flower.txt
	test -x $(FLOWER) || $(PYTHON) -m venv build/flower
	$(FLOWER) -m pip install -q -U -c constraints-flower.txt pip
	$(FLOWER) -m pip install -q -c constraints-flower.txt torch
	$(FLOWER) -m pip install -q -c constraints-flower.txt pytest -e '.[flower]'
	touch $@

flower: build/flower/.installed  ## nine clients by Flower: a SuperLink and nine SuperNodes here
	$(FLOWER) -m pilot_secure.simulate --engine flower --secure-agg $(ARGS)

flower-simulation: build/flower/.installed  ## the same by `flwr run` on Flower's simulation engine
	$(FLOWER) -m pilot_secure.flower.simulated --secure-agg $(ARGS)

test-flower: build/flower/.installed  ## tiny runs by both engines of Flower, and a SuperNode killed
	OMP_NUM_THREADS=1 $(FLOWER) -m pytest tests/flower tests/engines/test_flower.py

flower-transport: build/flower/.installed  ## what a phase costs by Flower (5 minutes)
	$(FLOWER) -m benchmarks.flower_transport $(ARGS)

bench-secure: install build/flower/.installed  ## measure secure aggregation (20 minutes, one core)
	OMP_NUM_THREADS=1 build/flower/bin/python -m benchmarks.masking_against_flower
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.price_of_protection
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.large_vector
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.many_clients

clean:  ## remove the virtual environment and build outputs (never runs/)
	rm -rf $(VENV) dist build
