# make walkthrough   executes the notebooks and builds their pages   (PROFILE=smoke|offline|mobile|voc, SEEDS=3, ARGS="--fresh")
# make test          ruff, pytest, nbval
# make lab           JupyterLab on notebooks/
# make notebooks     executes the notebooks offline and writes their outputs back to notebooks/
# Each sets up .venv first; nothing is installed or registered outside it.

PYTHON ?= python3
PROFILE ?= offline
SEEDS ?= 1
BIN := .venv/bin

.PHONY: walkthrough test lab notebooks clean

walkthrough: .venv/installed
	$(BIN)/deeplabv3 walkthrough --profile $(PROFILE) --seeds $(SEEDS) $(ARGS)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests
	workspace=$$(mktemp -d) && trap 'rm -rf "$$workspace"' EXIT && \
	DEEPLABV3_PROFILE=smoke DEEPLABV3_WORKSPACE=$$workspace $(BIN)/python -m pytest -p no:cacheprovider \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 300 notebooks

lab: .venv/installed
	$(BIN)/jupyter lab --ip 127.0.0.1 --notebook-dir notebooks

notebooks: .venv/installed
	$(BIN)/deeplabv3 walkthrough --profile offline --update $(ARGS)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf .venv data/synthetic data/runs data/walkthrough data/records/offline data/records/smoke
