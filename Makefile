# make walkthrough   executes the notebooks and builds a book of them   (PROFILE=smoke|offline|mobile|voc, SEEDS=3, ARGS="--fresh")
# make reproduce     makes the records that ship anew and compares them   (PROFILE=, SEEDS=, ARGS="--tables 5", "--ray", "--fresh")
# make lab           JupyterLab on notebooks/, which opens the first
# make test          ruff, codespell, mypy, pytest, nbval
# make test-all      make test, the slow tests, tests/kills.py, which kills every command and compares how it goes on (an hour), and
#                    tests/mutants.py, which breaks a copy of the code and sees that tests fail (an hour)
# make notebooks     executes the notebooks offline and writes their outputs back to notebooks/
# make readme        fills the tables of README.md and docs/ from the records   (ARGS=--check)
# make book          builds the book of the notebooks as they are: data/book/html/index.html
# make gpu           measures all that only a GPU can show, and goes on if repeated   (MINUTES=30, ARGS="--toy", "--output FOLDER")
# Each sets up .venv first; nothing is installed or registered outside it.

PYTHON ?= python3
PROFILE ?= offline
MINUTES ?= 30
BIN := .venv/bin
RAY := tests/walkthrough/experiments/test_ray_cluster.py  # starts a cluster, which wants the machine for itself

.PHONY: walkthrough reproduce lab test test-all notebooks readme book gpu clean

walkthrough: .venv/notebooks-installed
	$(BIN)/deeplabv3 walkthrough --profile $(PROFILE) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

reproduce: .venv/notebooks-installed
	$(BIN)/deeplabv3 reproduce --profile $(PROFILE) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

lab: .venv/notebooks-installed
	$(BIN)/jupyter lab --ip 127.0.0.1 --notebook-dir notebooks --LabApp.default_url=/lab/tree/00_start_here.ipynb

test: .venv/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadscope tests --ignore $(RAY)
	$(BIN)/python -m pytest $(RAY)
	workspace=$$(mktemp -d) && trap 'rm -rf "$$workspace"' EXIT && \
	DEEPLABV3_PROFILE=smoke DEEPLABV3_WORKSPACE=$$workspace $(BIN)/python -m pytest -p no:cacheprovider \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 300 --nbval-kernel-startup-timeout 300 notebooks

test-all: test
	$(BIN)/python -m pytest -n auto --dist loadscope -m slow tests
	$(BIN)/python tests/kills.py
	$(BIN)/python tests/mutants.py

notebooks: .venv/notebooks-installed
	$(BIN)/deeplabv3 walkthrough --profile offline --update $(ARGS)

readme: .venv/notebooks-installed
	$(BIN)/python docs/fill.py $(ARGS)

book: .venv/notebooks-installed
	$(BIN)/sphinx-build -q -W --keep-going -c docs/book -d data/book/doctrees . data/book/html
	@echo data/book/html/index.html

gpu: .venv/test-installed
	$(BIN)/deeplabv3 bench gpu --minutes $(MINUTES) $(ARGS)

.venv/notebooks-installed: EXTRAS = notebooks,book
.venv/test-installed: EXTRAS = notebooks,test,export,ray,book
.venv/notebooks-installed .venv/test-installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@ .venv/notebooks-installed

clean:
	rm -rf .venv data/synthetic data/runs data/gpu-toy data/walkthrough data/book data/reproduction data/local_records
