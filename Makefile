# Each target does all its set-up: a virtual environment in .venv with the locked packages. Needs Python 3.10 to 3.13.
PYTHON ?= python3
VENV ?= .venv
# `make bench DIFFUSERS=clone KOHYA=clone PEERS_PYTHON=their-python WEBUI=folder WEBUI_PYTHON=its-python` measures those
# trainers too
PEERS := $(if $(DIFFUSERS),--diffusers $(DIFFUSERS)) $(if $(KOHYA),--kohya $(KOHYA)) \
  $(if $(PEERS_PYTHON),--peers-python $(PEERS_PYTHON))
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
TEST := $(VENV)/.installed-test
OLD := .diffusers-old
RAY := $(VENV)/.installed-ray
# the gradios of A1111 and of Forge with what they cannot share with the page's: folders that stand before .venv's own
GRADIOS := .gradio-3.41.2 .gradio-4.40.0

.PHONY: demo test test-hosts test-ray lint versions app bench gpu clean

demo: $(RUN)
	$(BIN)/python -m lib_negtrans demo --out demo-out

test: lint test-hosts
	$(BIN)/python -m pytest -n 2 --dist loadfile

# the panels and the API on what each webui brings
test-hosts: $(TEST) $(GRADIOS)
	set -e; for gradio in $(GRADIOS); do \
	  NEGTRANS_GRADIO=$${gradio#.gradio-} PYTHONPATH=$(CURDIR)/$$gradio $(BIN)/python -m pytest -n 2 --dist loadfile tests/fakehost; \
	done

$(GRADIOS): .gradio-%: requirements-gradio-%.lock | $(RUN)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ -r $<
	touch $@

# folders on several machines, on a cluster of two in network namespaces (needs root and `ip`)
test-ray: $(RAY)
	$(BIN)/python -m pytest tests/ray

$(RAY): $(TEST) requirements-ray.lock
	$(BIN)/python -m pip install --quiet -r requirements-ray.lock
	touch $@

lint: $(TEST)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python -m mypy

# the oldest diffusers that is supported gives the numbers of the locked one
versions: $(TEST) $(OLD)
	NEGTRANS_OLD_DIFFUSERS=$(OLD) $(BIN)/python -m pytest tests/unit/test_diffusers_versions.py

$(OLD):
	$(BIN)/python -m pip install --quiet --no-deps --target $@ diffusers==0.31.0

app: $(RUN)
	$(BIN)/python -m lib_negtrans app

bench: $(RUN)
	$(BIN)/python benchmarks/roundtrip.py --count 6 --size 128
	$(BIN)/python benchmarks/translate.py --size 256
	$(BIN)/python benchmarks/translate.py --fidelity 2
	$(BIN)/python benchmarks/train.py $(PEERS) $(if $(WEBUI),--webui $(WEBUI) --webui-python $(WEBUI_PYTHON))
	$(BIN)/python benchmarks/train.py --kind lora $(PEERS)
	$(BIN)/python benchmarks/train.py --kind full $(PEERS)

# what only a machine with a graphics card can tell, into docs/gpu.md; DRY=1 tries every line on the CPU
gpu: $(TEST)
	$(BIN)/python benchmarks/gpu.py $(if $(DRY),--dry-run) $(if $(PEER),--peer $(PEER)) $(PEERS)

$(RUN): requirements.lock requirements-evaluate.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-evaluate.lock
	touch $@

$(TEST): $(RUN) requirements-test.lock
	$(BIN)/python -m pip install --quiet -r requirements-test.lock
	touch $@

clean:
	rm -rf $(VENV) $(OLD) $(GRADIOS) demo-out
