# Each target does all its set-up: a virtual environment in .venv with the locked packages. Needs Python 3.10 to 3.12.
PYTHON ?= python3
VENV ?= .venv
# `make bench DIFFUSERS=clone WEBUI=folder WEBUI_PYTHON=its-python` measures those trainers too
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint app bench clean

demo: $(STAMP)
	$(BIN)/python -m lib_negtrans demo --out demo-out

test: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

app: $(STAMP)
	$(BIN)/python -m lib_negtrans app

bench: $(STAMP)
	$(BIN)/python benchmarks/roundtrip.py --count 6 --size 128
	$(BIN)/python benchmarks/translate.py --size 256
	$(BIN)/python benchmarks/translate.py --fidelity 2
	$(BIN)/python benchmarks/train.py $(if $(DIFFUSERS),--diffusers $(DIFFUSERS)) \
	  $(if $(WEBUI),--webui $(WEBUI) --webui-python $(WEBUI_PYTHON))

$(STAMP): requirements.lock requirements-evaluate.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-evaluate.lock
	touch $@

clean:
	rm -rf $(VENV) demo-out
