# Two commands: `make run` measures this machine, `make test` tests the code.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONSAFEPATH := 1

OUT ?= gpu-results
WORKERS ?= auto

.PHONY: run test test-slow lint format docs benchmarks gpu rehearse clean help

help:
	@echo "make run         measure this machine, predict a model, run it, compare"
	@echo "make test        run the tests but the slow ones (minutes)"
	@echo "make test-slow   run the slow ones: Slurm, Ray, killed ranks, compilers, the wheel"
	@echo "make lint        ruff, mypy, pyright, import rules"
	@echo "make docs        regenerate the output shown in README.md"
	@echo "make benchmarks  speed of the program itself, as ratios"
	@echo "make rehearse    the steps of make gpu on the processor, in small"
	@echo "make gpu         everything a GPU is needed for; continues when stopped (OUT=folder)"

run: .python
	@$(PYTHON) scripts/make_venv.py measure
	@$(BIN)/groundspeed run

# WORKERS=0 runs the tests in one process, as a debugger needs it.
test: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/pytest -q -n $(WORKERS) -m "not slow"
	$(BIN)/pytest -q --durations=0 --doctest-modules --pyargs groundspeed

test-slow: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/pytest -q -n $(WORKERS) -m slow

lint: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/python scripts/regenerate_docs.py

benchmarks: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/python benchmarks/startup.py

# From a bare checkout: no installation, only the libraries that are there.
gpu: .python
	PYTHONPATH=src $(PYTHON) -P scripts/gpu.py $(OUT)

# The same on the processor, as small as it comes: whether all parts fit.
rehearse: .python
	PYTHONPATH=src $(PYTHON) -P scripts/gpu.py $(OUT) --rehearse

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: .python
.python:
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON); install with: sudo apt-get install -y python3 python3-venv"; exit 2; }
