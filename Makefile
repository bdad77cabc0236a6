# The two commands: `make demo` and `make test`. Each sets up .venv where it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo demo-detection test soak lint bench clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/mlcli train configs/classification/mlp-digits.yaml --name demo

demo-detection: install
	$(BIN)/mlcli train configs/detection/yolo-scenes.yaml --name demo-detection

test: install
	$(BIN)/python -m pytest -m alone --reruns 2  # a measurement that others disturbed is repeated
	$(BIN)/python -m pytest -m "not alone" -n auto

soak: install
	MLCLI_SOAK=10 $(BIN)/python -m pytest tests/reliability -n auto

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=benchmarks $(BIN)/mypy mlcli benchmarks

bench: install
	$(BIN)/python benchmarks/everything.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
