# For a machine with git, make and Python >= 3.10: `make demo`, `make test`, `make lint`.

PYTHON ?= python3
# What of torch to install, such as `make test TORCH='torch==2.6.0 torchvision==0.21.0'` after `make clean`; the newest if
# not said. 2.6 is the oldest that is supported.
TORCH ?= torch
# For a real ComfyUI: COMFYUI_DIR, a checkout of it, and COMFYUI_PYTHON, a Python that has its requirements; and where
# playwright-core lies, which drives its page in a Chromium (Debian's, or the one that CHROMIUM names).
PLAYWRIGHT_DIR ?= $(HOME)/.cache/cudaspeed-playwright
export PLAYWRIGHT_DIR
BIN := .venv/bin
RUN := $(BIN)/python

.PHONY: demo test comfy-tests browser-tests screenshots xla-env xla-tests lint fuzz model clean

demo: .venv/ready  ## upscale examples/chelsea.png with the bundled model into out/
	@$(RUN) examples/demo.py

# A process for each core, each with whole files, for what a file's tests share; and a core for each process: waiting for
# one another's cores, torch's threads would take longer than alone.
test: .venv/ready  ## run the test-suite
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

comfy-tests: .venv/ready  ## the tests in a real ComfyUI, on the CPU: make comfy-tests COMFYUI_DIR=... COMFYUI_PYTHON=...
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/comfyui

browser-tests: .venv/ready $(PLAYWRIGHT_DIR)/node_modules/playwright-core  ## the tests in its page, in headless Chromium
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/browser

screenshots: .venv/ready $(PLAYWRIGHT_DIR)/node_modules/playwright-core  ## those in docs/screenshots, made anew
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/browser/screenshots.py

$(PLAYWRIGHT_DIR)/node_modules/playwright-core:
	npm install --silent --no-audit --no-fund --prefix $(PLAYWRIGHT_DIR) playwright-core@1

xla-env: .venv-xla/ready  ## JAX and torchax, with a torch that they fit, in an environment of their own

xla-tests: .venv-xla/ready  ## the tests of what XLA computes, on a processor that looks like several devices
	.venv-xla/bin/python -m pytest -rs tests/backends/test_xla.py tests/commands/test_export.py

.venv-xla/ready: pyproject.toml
	$(PYTHON) -m venv .venv-xla
	.venv-xla/bin/python -m pip install --quiet --disable-pip-version-check torch==2.11.0 torchvision==0.26.0 \
	  jax==0.10.2 torchax==0.0.13 -e '.[dev,xla]'
	@touch $@

lint: .venv/ready  ## style, import direction, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(RUN)

fuzz: .venv/ready  ## ten minutes of files that nobody wrote, for every reader; what breaks one lies in out/fuzz/
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	OMP_NUM_THREADS=1 $(RUN) -m fuzz

model: .venv/ready  ## train the x2 model anew into out/ (hours on a CPU); PHOTOS: a folder as train/README.md has it
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[train]'
	$(RUN) train/train.py $(if $(PHOTOS),--photos $(PHOTOS)) --out out/cudaspeed-compact-x2.safetensors

# uv installs torch several times faster than pip; where it cannot be had, pip does the same. Compiled to bytecode, as pip
# leaves it: else every process that may write none spends ten seconds on torch's files.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	@echo "Installing torch, spandrel and the rest into .venv; this takes a few minutes the first time."
	$(RUN) -m pip install --quiet --disable-pip-version-check uv \
	  && $(BIN)/uv pip install --quiet --compile-bytecode --python $(RUN) $(TORCH) -e '.[dev]' \
	  || $(RUN) -m pip install --quiet --disable-pip-version-check $(TORCH) -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-xla out build *.egg-info
