# Two commands matter: `make demo` (the whole way on real data) and `make test` (all checks).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A spinning OpenMP barrier slows every other process of a small machine several times over.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test lint types imports proto clean

demo: .venv/.train
	$(BIN)/recsys demo --out runs/demo

test: lint types imports
	$(BIN)/pytest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

imports: .venv/.dev
	$(BIN)/lint-imports

proto: .venv/.dev
	$(BIN)/python -m grpc_tools.protoc -Iservices/pb=protos/recsys/v1 --python_out=. --mypy_out=. --grpc_python_out=. \
		--mypy_grpc_out=. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
		--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc protos/recsys/v1/recsys.proto

# torch comes first and pinned: an open range would bring gigabytes of CUDA packages.
.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recsys needs Python 3.11 or newer; name one with PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	touch $@

.venv/.train: .venv/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[train]'
	touch $@

.venv/.dev: .venv/.train
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
