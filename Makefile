# Every target sets itself up: Python >= 3.11, git and make are all it takes. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Two steps of one environment: what runs without torch, and everything. `make demo` needs the first alone.
LIGHT := .venv/.light
STAMP := .venv/.installed
# The tests, as many at a time as tests/conftest.py says, a file together. What ARGS names is run one after another.
TESTS := -n auto --dist loadfile --no-loadscope-reorder
# What an exported model needs to run, and nothing else: exports are tried in it.
EXPORT := .venv-export
DATA ?=

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) $(EXPORT)/.installed ## install everything into .venv (once; 6 GB on Linux, most of it torch with CUDA)

$(LIGHT): requirements-light.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Handful needs Python 3.11 or newer; set PYTHON=...")'
	@echo "Installing into .venv, without torch: about 0.2 GB to download and 0.6 GB on disk. Once."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --no-compile --require-hashes -r requirements-light.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(STAMP): requirements.lock $(LIGHT)
	@echo "Installing the rest into .venv: about 3 GB to download and 6 GB on disk on Linux, most of it torch with CUDA. Once."
	@$(BIN)/python -m pip install --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	@touch $@

$(EXPORT)/.installed: requirements-export.lock | $(STAMP)
	@test -x $(EXPORT)/bin/python || $(BIN)/python -m venv $(EXPORT)
	@$(EXPORT)/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements-export.lock
	@touch $@

demo: $(LIGHT) ## pictures become a working classifier, here and now; DATA=./my_photos for your own
	@$(BIN)/handful demo $(if $(DATA),--data "$(DATA)")

# Tests start programs by the hundred: what one has compiled the others read, and none takes a core from the others.
test: $(STAMP) $(EXPORT)/.installed ## run the tests, with real services and real pictures; ARGS=path::test for one
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(or $(ARGS),$(TESTS))

check: $(STAMP) ## everything that is checked without running: style, types, imports, contract, generated code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@$(BIN)/hadolint deploy/Dockerfile
	@released=$$(git describe --tags --abbrev=0 2>/dev/null); if [ -n "$$released" ]; \
		then $(BIN)/buf breaking --against ".git#tag=$$released"; else echo "No release yet: no contract to break."; fi
	@$(BIN)/python -m pytest -q tests/unit/test_house.py

fmt: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The Open Inference Protocol's stubs serve the inference service alone, and lie there.
OIP := services/inference/oip/v2
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc \
	--python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:.

protos: $(STAMP) ## generate handful/v1 and services/inference/oip/v2 from protos
	@rm -f handful/v1/*_pb2*.py* $(OIP)/*_pb2*.py*
	@$(PROTOC) -Iprotos protos/handful/v1/*.proto
	@$(PROTOC) -I$(OIP)=protos/inference protos/inference/*.proto

lock: $(STAMP) ## pin every dependency again, with hashes (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url --no-annotate \
		--no-header -c requirements.pins pyproject.toml -o requirements.lock
	@uv pip compile --quiet --universal --python-version 3.11 --extra light --generate-hashes --no-emit-index-url \
		--no-annotate --no-header -c requirements.lock pyproject.toml -o requirements-light.lock
	@for image in dataset trainer inference worker worker-light; do \
		uv pip compile --quiet --python-version 3.11 --python-platform linux --extra $$image --generate-hashes \
			--no-emit-index-url --no-annotate --no-header -c requirements.lock pyproject.toml \
			-o deploy/locks/$$image.lock || exit 1; done
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header -c requirements.lock services/trainer/exports/shipped/requirements.txt \
		services/trainer/exports/shipped/sound/requirements.txt services/trainer/exports/shipped/onnx/requirements.txt \
		-o requirements-export.lock

bench: $(STAMP) ## print the figures that the README and docs quote
	@for script in benchmarks/*.py; do $(BIN)/python $$script; done

images: $(STAMP) ## prove the images without a container engine: build, confine, run (Linux, root, uv)
	@$(BIN)/python -m deploy.prove

.PHONY: help setup demo test check fmt protos lock bench images
