# Two commands from a clean clone, on a machine with Python alone:
#   make demo    samples pictures through a worker on this machine
#   make test    checks and tests everything, of older ComfyUI releases what differs between them

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := --disable-pip-version-check install --quiet --constraint constraints.txt
PIP := $(BIN)/python -m pip $(INSTALL)
# RunPod's SDK brings a hundred packages that nothing but a queue worker needs.
SDK := $(VENV)-runpod
# Spinning OpenMP threads of one process starve those of another.
export OMP_WAIT_POLICY := passive
PRISM ?= 5.14.2
# Test processes that run side by side.
PROCESSES ?= 2

.PHONY: demo test test-all check lint types security unit unit-all bench matrix packs pictures prism clouds clean

demo: $(VENV)/.demo
	$(BIN)/comfy-gpu-offload demo

test: check unit

# Every test on every ComfyUI found here.
test-all: check unit-all

check: lint types security

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

security: $(VENV)/.dev
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src __init__.py

unit: $(VENV)/.dev $(SDK)/.done
	$(BIN)/pytest -n $(PROCESSES) --releases=newest

# Also what installs a rented pod's worker from the index, which takes minutes.
unit-all: $(VENV)/.dev $(SDK)/.done
	INSTALLS_FROM_INDEX=yes $(BIN)/pytest -n $(PROCESSES) --releases=all

# Writes docs/compatibility.md, with every ComfyUI found here; takes half an hour.
matrix: $(VENV)/.dev
	$(BIN)/python -m tests.comfyui.write_compatibility

# Writes docs/packs.md, with the node packs found here (tests/comfyui/test_packs.py); takes some minutes.
packs: $(VENV)/.dev
	$(BIN)/python -m tests.comfyui.write_packs

# Writes docs/benchmarks.md and its plots; takes some minutes. zipnn, to compare with, takes a C compiler.
bench: $(VENV)/.dev
	$(PIP) --editable '.[zipnn]' || echo 'zipnn is left out: it cannot be built here'
	$(BIN)/python benchmarks/report.py

# Writes docs/images/nodes.png and the thumbnails of the example workflows; takes a ComfyUI, Chromium and some minutes.
pictures: $(VENV)/.dev
	$(BIN)/python -m tests.web.take_pictures

# A mock server by RunPod's schema, for tests/runpod/rest. Takes npm; the tests find RunPod's schema by $RUNPOD_OPENAPI.
prism: .prism/.done

.prism/.done: Makefile
	npm install --silent --no-audit --no-fund --prefix .prism @stoplight/prism-cli@$(PRISM)
	touch $@

# The task files for SkyPilot and dstack, read by the tools themselves: 700 MB that no other test needs.
clouds: $(VENV)/.dev $(VENV)-dstack/.done $(VENV)-skypilot/.done
	$(BIN)/pytest tests/worker/test_clouds.py

$(VENV)-dstack/.done $(VENV)-skypilot/.done: $(VENV)-%/.done: worker/clouds/requirements-%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip --disable-pip-version-check install --quiet --requirement $<
	touch $@

# torch first and alone: with it in place, a range that it satisfies installs no other.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $@

# What $(VENV) has already, torch and the package above all, is found there and not installed again.
$(SDK)/.done: worker/requirements.txt constraints.txt $(VENV)/.dev
	rm -rf $(SDK)
	$(BIN)/python -m venv --without-pip $(SDK)
	$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
		> $$($(SDK)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth
	$(BIN)/python -m pip --python $(SDK)/bin/python $(INSTALL) --requirement worker/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(SDK) $(VENV)-dstack $(VENV)-skypilot .prism .mypy_cache .pytest_cache .ruff_cache .hypothesis build
