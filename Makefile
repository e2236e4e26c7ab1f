# Everything a newcomer or CI types. Each target sets up what it needs; Python 3.11 or newer is all
# that has to be there.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
SHELL_SCRIPTS := .ci/run examples/demo.sh $(wildcard examples/containers/*.sh) $(wildcard slurm/*.sbatch) benchmarks/goodput/peer.sbatch
# A file is the unit, since its tests share runs; tests/conftest.py says how many processes, and in which order.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
SETTINGS := pyproject.toml setup.py constraints.txt

.PHONY: help demo test quick check format wheel image image-check bench goodput parity slurm-demo slurm-matrix slurm-versions gpu-check gpu-wheels schema clean

help:                 ## Show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/train   ## The main job on 2 ranks: plan, pack, train, stop, resume, export, evaluate, report
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

test: $(VENV)/dev     ## All tests that this machine can run
	$(PYTEST)

quick: $(VENV)/dev    ## Tests that start neither ranks nor Slurm, for use while working
	$(PYTEST) -m 'not slow and not dist and not slurm'

check: $(VENV)/dev    ## Lint, format, types, import rules, shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

format: $(VENV)/dev   ## Format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/dev    ## Build dist/*.whl
	$(BIN)/python -m build --wheel

image:                ## Build the container image with Docker, Podman or Apptainer (BUILDER=)
	BUILDER=$(BUILDER) sh examples/containers/build.sh

image-check:          ## The same, and run the launcher's tests in it
	BUILDER=$(BUILDER) sh examples/containers/build.sh check

bench: $(VENV)/train  ## Run the benchmarks against their peers and print the ratios
	$(BIN)/python benchmarks/packing_efficiency.py --data examples/conversations.jsonl --tokenizer scratch
	$(BIN)/python benchmarks/compare_packers.py --lengths 20000 --conversations 50
	$(BIN)/python benchmarks/packed_against_padded.py

goodput: $(VENV)/train ## Goodput under 12 events on a real Slurm here, against HF Trainer: 25 minutes (needs apt)
	$(BIN)/python benchmarks/goodput --out benchmarks/goodput.md

parity: $(VENV)/train ## Train one tiny model in every way that this machine has, and write docs/parity.md
	$(BIN)/python tests/train/parity.py --out docs/parity.md

# On a GPU with the torch that is there: PYTHON names its interpreter, and nothing is downloaded.
gpu-check: $(if $(DRY),$(VENV)/dev)  ## Check one GPU in 8 minutes (PYTHON=, WHEELS=, PAGE=); DRY=1: tiny, on the CPU
	$(if $(DRY),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check $(if $(DRY),--dry) \
		$(if $(WHEELS),--wheels $(WHEELS)) $(if $(PAGE),--page $(PAGE)) $(if $(OUT),--out $(OUT))

gpu-wheels: $(VENV)/dev  ## Pack .gpu-check/ for a GPU machine without a network (PRESENT=pip freeze)
	rm -rf .gpu-check
	$(BIN)/python benchmarks/gpu_check/pack_wheels.py $(if $(PRESENT),--present $(PRESENT)) --out .gpu-check

slurm-demo: $(VENV)/train    ## A real Slurm here: a run on 2 nodes is preempted and comes back (needs apt)
	$(BIN)/python tests/slurm/demo.py

slurm-matrix: $(VENV)/train  ## All that can end a job, under each kind of preemption: some 25 minutes
	$(BIN)/python tests/slurm/matrix.py --out benchmarks/slurm_matrix.md
	$(BIN)/python tests/slurm/accounting.py --out benchmarks/slurm_limits.md

slurm-versions: $(VENV)/dev  ## The tests on a real Slurm once more, on Slurm 24.11 and 26.05 (needs root and apt)
	$(BIN)/python tests/slurm/versions.py

schema: $(VENV)/train ## Write docs/schema/recipe.schema.json anew
	$(BIN)/gemfit schema recipe > docs/schema/recipe.schema.json

clean:                ## Remove the environment and what the demo made
	rm -rf $(VENV) .demo .slurm-versions build dist

$(VENV)/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/train: $(VENV)/pip $(SETTINGS)
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,audit]'
	@touch $@

$(VENV)/dev: $(VENV)/train
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev
	@touch $@
