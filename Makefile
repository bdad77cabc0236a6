# The two commands: `make demo` and `make test`. Each sets up .venv where it is missing.
PYTHON ?= python3
BIN := .venv/bin
COVERAGE ?=
# Where Python keeps no compiled modules, each of the hundreds of processes that tests start would compile PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo demo-detection test coverage test-gpu soak lint types docs bench clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	touch $@  # --no-compile: of 14,000 files most are never imported; compiling all of them takes a minute

demo: install
	$(BIN)/mlcli train configs/classification/mlp-digits.yaml --name demo

demo-detection: install
	$(BIN)/mlcli train configs/detection/yolo-scenes.yaml --name demo-detection

test: install
	$(BIN)/python -m pytest tests/machine -m alone --reruns 2  # a measurement that others disturbed is repeated
	$(BIN)/python -m pytest -m "not alone" -n auto --dist worksteal $(COVERAGE)

coverage: COVERAGE = --cov=mlcli --cov-report=term:skip-covered
coverage: test

test-gpu: install
	$(BIN)/python -m pytest -m gpu -rs

soak: install
	MLCLI_SOAK=10 MLCLI_TEST_DEVICE=cpu $(BIN)/python -m pytest -m "not alone" -n auto --dist worksteal

lint: install types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	MYPYPATH=benchmarks $(BIN)/mypy mlcli benchmarks

docs: install
	$(BIN)/mlcli schema --markdown > docs/config.md
	$(BIN)/python docs/architecture.py

bench: install
	$(BIN)/python benchmarks/everything.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage
