# One command each: `make run` shows the system at work, `make test` checks it, `make help` lists the rest.
# Needs Python 3.11 and make, nothing else; everything is installed into .venv.

BOOTSTRAP_PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
FAST := not slow and not full_data and not gpu and not dist and not soak
# Two test workers with one thread each: torch's own threads would fight over the same cores.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
COVERED := leyline kasmina tolaria tamiyo simic

ifdef ESPER_DATA
EVERYTHING := not gpu and not soak
else
EVERYTHING := not gpu and not soak and not full_data
endif

.DEFAULT_GOAL := help
.PHONY: help run setup check style test test-all battery soak coverage docs generate mutation benchmarks models results clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(BOOTSTRAP_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "esper-lite needs Python 3.11 or newer")'
	$(BOOTSTRAP_PYTHON) -m venv $(VENV)

# torch goes first and alone: the exact pin takes the CPU build, a range would take one with gigabytes of CUDA.
$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) "$$(head -n 1 constraints.txt)"
	$(PIP) -c constraints.txt -e .
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) "$$(head -n 1 constraints.txt)"
	$(PIP) -c constraints.txt -e '.[dev,docs]'
	@touch $(RUN_STAMP) $@

run: $(RUN_STAMP) ## install what a run needs and grow a network on real data
	$(BIN)/esper demo

setup: $(DEV_STAMP) ## install everything a developer needs

check: $(DEV_STAMP) ## format, lint, types, import contracts, architecture tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(TEST) -m 'not gpu and not slow' --no-cov tests/architecture

style: $(DEV_STAMP) ## fix what a tool can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(DEV_STAMP) ## the fast tests
	$(TEST) -m '$(FAST)' --no-cov

test-all: $(DEV_STAMP) coverage docs ## every test but gpu (full data sets only with ESPER_DATA), coverage floor, docs

battery: $(DEV_STAMP) ## every fault that the battery names, short forms, and the table of what held
	@mkdir -p build && rm -f build/battery.jsonl
	ESPER_BATTERY_ROWS=build/battery.jsonl $(TEST) -m 'battery and $(EVERYTHING)' --no-cov; code=$$?; \
	$(BIN)/python scripts/battery_table.py build/battery.jsonl $(KEEP) && exit $$code

soak: $(DEV_STAMP) ## the long forms (hours): more kills, longer fuzzing (ESPER_SOAK_MINUTES), thousands of seeds
	@mkdir -p build && rm -f build/soak.jsonl
	ESPER_SOAK=1 ESPER_BATTERY_ROWS=build/soak.jsonl $(TEST) -m 'soak and not gpu' --no-cov; code=$$?; \
	$(BIN)/python scripts/battery_table.py build/soak.jsonl $(KEEP) && exit $$code

coverage: $(DEV_STAMP)
	@test -n "$(ESPER_DATA)" || echo "ESPER_DATA is not set: tests marked full_data are left out"
	$(TEST) -m '$(EVERYTHING)' --cov --cov-report=
	$(BIN)/python scripts/recompute_tables.py --check
	$(BIN)/python scripts/performance_tables.py --check
	$(BIN)/python scripts/peer_curves.py --check
	for room in $(COVERED); do $(BIN)/coverage report --skip-covered --include="src/esper/$$room/*" --fail-under=90 || exit 1; done

docs: $(DEV_STAMP) ## build the documentation into site/, warnings are errors
	$(BIN)/mkdocs build --strict
	$(BIN)/python scripts/site_requests.py site

generate: $(DEV_STAMP) ## rewrite what is generated from code: README tree, config, lifecycle and reward pages, pictures, frozen flags
	$(BIN)/python scripts/readme_tree.py
	$(BIN)/python scripts/config_reference.py
	$(BIN)/python scripts/lifecycle_page.py
	$(BIN)/python scripts/concept_pictures.py
	$(BIN)/python scripts/rewards_page.py
	$(BIN)/python scripts/cli_flags.py --update
	$(BIN)/python scripts/battery_table.py
	$(BIN)/python scripts/model_sweep.py --page-only

# mutmut works on a copy in mutants/; src stays as it is. Started anew, because it keeps earlier answers.
mutation: $(DEV_STAMP) ## plant small faults in gates and lifecycle and count those that the tests catch (minutes)
	$(PIP) -c constraints.txt -e '.[mutation]'
	rm -rf mutants
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/python scripts/mutation_table.py

benchmarks: $(DEV_STAMP) ## measure data path, start-up, saving, memory, precision, a host run against a bare loop, fleets, a training (an hour; needs Fashion-MNIST)
	@mkdir -p build
	$(BIN)/python benchmarks/data_path.py build/data_path.json
	$(BIN)/python benchmarks/start_up.py build/start_up.json
	$(BIN)/python benchmarks/host_run.py build/host_run.json
	$(BIN)/python benchmarks/save_stall.py build/save_stall.json
	$(BIN)/python benchmarks/memory.py build/memory.json
	$(BIN)/python benchmarks/roofline.py build/roofline.jsonl
	$(BIN)/python benchmarks/precision.py build/precision.jsonl
	$(BIN)/python benchmarks/attention_precision.py build/attention_precision.jsonl
	$(BIN)/python benchmarks/fleets.py build/fleets.jsonl
	$(BIN)/python benchmarks/process_fleet.py build/process_fleet.jsonl
	$(BIN)/python benchmarks/training_shares.py build/training_shares.jsonl
	$(BIN)/python benchmarks/dashboard_attached.py build/dashboard_attached.jsonl
	$(BIN)/python benchmarks/bookkeeping.py --out build/bookkeeping.json

# TASKS="digits waves" leaves out Fashion-MNIST; PEER="--tier smoke" takes seconds and writes below build/.
results: $(DEV_STAMP) ## growth against its peers at equal FLOPs: runs that have no row yet, then tables and pictures
	$(BIN)/python benchmarks/peer_study.py $(PEER) $(if $(TASKS),--tasks $(TASKS))
	$(BIN)/python scripts/recompute_tables.py
	$(BIN)/python scripts/peer_curves.py

models: $(DEV_STAMP) ## grow one model of each of timm's families that has no row yet (an hour when none has), write docs/models.md
	OMP_NUM_THREADS=1 nice $(BIN)/python scripts/model_sweep.py

clean: ## remove build and cache folders; the environment and the runs stay
	rm -rf site build dist mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
