# Needs Python 3.10, 3.11 or 3.12 with pip and venv, and make. `make` alone lists the targets.
#
#   PYTHON       the Python to make the environment with          make test PYTHON=python3.12
#   TORCH_INDEX  another package index for torch (CPU wheels)      make demo TORCH_INDEX=https://…/whl/cpu
#   ARGS         arguments for what the target runs                make serve ARGS="--engine echo --verbose"

PYTHON      ?= python3
VENV        ?= .venv
TORCH_INDEX ?=
ARGS        ?=

BIN       := $(VENV)/bin
# Shows one line of progress, and what pip says only if it fails.
PIP       := PYTHONPATH=tools $(PYTHON) -m llmstack.diagnostics.pip_progress $(BIN)/python
INSTALLED := $(VENV)/.installed
DEMO      := $(VENV)/.installed-demo
CLIENTS   := build/venv-clients/.installed build/venv-llama-index/.installed build/venv-tools/.installed
# tests/conftest.py orders the files: --no-loadscope-reorder keeps that order.
PYTEST    := $(BIN)/pytest -n 2 --no-loadscope-reorder --timeout 300 --durations 25 -rs --ignore=tests/docker --ignore=tests/install --ignore=tests/clients
SOAKED    := $(addprefix tests/integration/test_,release_kills.py release_faults.py release_checks.py supervision.py shutdown.py full_disk.py webhook_chaos.py \
                 decoupled_backend.py bench.py openai_api.py) \
             tests/browser/test_release_life.py

# The tests start some two hundred processes of Python. Without compiled modules, each one compiles the project again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install lock demo test test-all test-browser test-docker test-wheel coverage mutate test-gpu test-clients lock-clients soak serve bench bench-guides embedded-model check format clean distclean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Make .venv with the locked packages; a second time nothing happens

# torch goes first: TORCH_INDEX chooses its build. Asked for again, it brings a CUDA build's libraries, which are not locked.
define INSTALL
@PYTHONPATH=tools $(PYTHON) -m llmstack.diagnostics.check_python
@echo "==> making $(VENV) with $$($(PYTHON) --version)"
@$(PYTHON) -m venv $(VENV)
@echo "==> installing torch (the largest part)"
@$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
@echo "==> installing everything else from $(1)"
@$(PIP) --no-deps --require-hashes -r $(1)
@$(PIP) -r requirements/torch.txt
@$(PIP) --no-deps --no-build-isolation --editable .
endef

$(INSTALLED): pyproject.toml requirements/lock.txt requirements/torch.txt
	$(call INSTALL,requirements/lock.txt)
	@touch $(INSTALLED) $(DEMO)

$(DEMO): pyproject.toml requirements/demo.txt requirements/torch.txt
	$(call INSTALL,requirements/demo.txt)
	@touch $@

lock: $(INSTALLED)  ## Renew requirements/lock.txt from pyproject.toml; UPGRADE=1 takes the newest versions
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
		--no-emit-package torch --constraint requirements/torch.txt --generate-hashes --no-annotate --quiet \
		$(if $(UPGRADE),--upgrade) --output-file requirements/lock.txt
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml requirements/demo.in --extra engine --extra server \
		--universal --python-version 3.10 --no-emit-package torch --constraint requirements/torch.txt \
		--constraint requirements/lock.txt --generate-hashes --no-annotate --quiet --output-file requirements/demo.txt

demo: $(DEMO)  ## Start the server, send every kind of request over every protocol, print what came back
	@$(BIN)/llmstack demo $(ARGS)

serve: $(DEMO)  ## Serve in the foreground until Ctrl-C
	@$(BIN)/llmstack serve $(ARGS)

# Containers, the gateway and the wheel have targets of their own: they need Docker, HAProxy, downloads and minutes.
test: $(INSTALLED)  ## Run the tests, also on live servers, in at most five minutes on two idle cores
	$(PYTEST) -m "not slow" $(ARGS)
	@echo "not among these: make test-all (slow tests), make test-docker (containers, gateway), make test-wheel (the wheel)"

test-all: $(INSTALLED)  ## Run all of them with more and random examples, and the slow ones: restarts, full disks, releases
	$(PYTEST) --hypothesis-profile explore $(ARGS)

test-wheel: $(INSTALLED)  ## Install the wheel into a fresh environment and use it without the checkout
	$(BIN)/pytest --timeout 1200 -rs tests/install $(ARGS)

test-docker: $(INSTALLED)  ## Run the tests of containers and the gateway; needs Docker, HAProxy and debootstrap
	$(BIN)/pytest -n 2 --dist loadfile --timeout 900 -rs tests/docker $(ARGS)

# Other people's clients are no packages of the project: they have environments of their own, with exact versions.
test-clients: $(INSTALLED) $(CLIENTS)  ## Use the service with LangChain, pydantic-ai, instructor, LlamaIndex, schemathesis, genai-perf, aiperf
	$(BIN)/pytest --timeout 600 --durations 5 -rs tests/clients $(ARGS)

build/venv-clients/.installed: tests/clients/requirements.txt
build/venv-llama-index/.installed: tests/clients/requirements-llama-index.txt
build/venv-tools/.installed: tests/clients/requirements-tools.txt
$(CLIENTS): | $(INSTALLED)
	@echo "==> making $(@D)"
	@rm -rf $(@D)
	@$(BIN)/uv venv --quiet --python $(BIN)/python $(@D)
	@$(BIN)/uv pip install --quiet --no-deps --python $(@D)/bin/python --requirement $(filter %.txt,$^)
	@touch $@

lock-clients: $(INSTALLED)  ## Take the newest versions of these clients
	@for name in requirements requirements-llama-index requirements-tools; do \
		UV_CUSTOM_COMPILE_COMMAND="make lock-clients" $(BIN)/uv pip compile tests/clients/$$name.in --universal --upgrade \
			--python-version 3.10 --no-annotate --quiet --no-emit-package perf-analyzer --output-file tests/clients/$$name.txt || exit 1; \
	done

coverage: $(INSTALLED)  ## Measure line and branch coverage of unit, property and contract tests, per package
	$(BIN)/pytest -n 2 --timeout 300 --cov --cov-report=json:build/coverage/report.json tests/unit tests/property tests/contract $(ARGS)
	@$(BIN)/python -m tests.coverage_table build/coverage/report.json

mutate: $(INSTALLED)  ## Mutate the rules about money and access: which changes do the unit tests not notice?
	$(BIN)/python -m tests.mutation.run $(ARGS)

test-gpu: $(INSTALLED)  ## Run the engine's tests on a GPU; needs CUDA and a torch built for it
	@$(BIN)/python -c 'import torch; raise SystemExit(not torch.cuda.is_available() and "no CUDA device: nothing to test")'
	$(BIN)/pytest --timeout 300 tests/unit/portable_engine/test_cuda.py $(ARGS)

# One process, in order: what runs beside it would be in the figures.
soak: $(INSTALLED)  ## Kill everything, also at each step of a release's switch, then count 20,000 requests
	LLMSTACK_SOAK_KILLS=30 $(BIN)/pytest -s tests/integration/test_kills.py $(ARGS)
	LLMSTACK_SOAK=1 $(BIN)/pytest -s $(SOAKED) $(ARGS)
	LLMSTACK_SOAK=1 $(BIN)/pytest -s tests/docker/test_crashes.py tests/docker/test_json_guard.py tests/docker/test_grpc_guard.py $(ARGS)
	LLMSTACK_SOAK_REQUESTS=20000 $(BIN)/pytest -s tests/integration/test_ledger.py $(ARGS)

test-browser: $(INSTALLED)  ## Run the board's tests in a real Chromium; screenshots go to build/screenshots
	$(BIN)/pytest --timeout 300 tests/browser $(ARGS)

bench-guides: $(INSTALLED)  ## Measure how much guides that are hostile to decoding slow down other requests
	@$(BIN)/python -m tests.hostile_guides | $(BIN)/llmstack bench beside - $(ARGS)

embedded-model: $(INSTALLED)  ## Train, build or evaluate the embedded release's model; ARGS=--help
	@$(BIN)/python -m embedded_model $(ARGS)

bench: $(INSTALLED)  ## Measure what the policy costs, on requests and on streams; writes build/bench.json
	@$(BIN)/llmstack bench $(ARGS)

check: $(INSTALLED)  ## Lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove caches and build results; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find model_repository python_models tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv as well
	rm -rf $(VENV)
