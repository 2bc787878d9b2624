# `make demo` draws a picture, `make test` runs all tests; each sets up what it needs on a fresh machine.
PYTHON ?= python3
# More options for pip, for example an index with CPU builds of PyTorch.
PIP_FLAGS ?=
# Of `make fuzz`.
SECONDS ?= 60
SEED ?= 0
JOBS ?= 1

DEV := .venv
LIGHT := build/light
FLOOR := build/floor

SUITES := test-export test-light test-benchmarks test-rest test-floor

PACKAGES := $(shell find runtime export models -type f -not -name '*.pyc')

.PHONY: demo test $(SUITES) test-fleet lint emulate fuzz clean

demo: $(LIGHT)/installed
	$(LIGHT)/bin/pocket-diffusion generate "a lake under snowy mountains at sunset" --seed 1 -o demo.png

# Two at a time, the longest first; PyTorch keeps to one core each.
test: $(DEV)/installed $(LIGHT)/installed
	OMP_NUM_THREADS=1 $(MAKE) -j2 $(SUITES)

test-export: $(DEV)/installed
	$(DEV)/bin/python -m pytest -q tests/export tests/models

test-light: $(LIGHT)/installed
	$(LIGHT)/bin/python -c "import importlib.util as u; assert not (u.find_spec('torch') or u.find_spec('onnx'))"
	$(LIGHT)/bin/python -m pytest -q tests/runtime tests/fuzz

test-benchmarks: $(DEV)/installed
	$(DEV)/bin/python -m pytest -q tests/benchmarks

# All that the others leave, and those of the runtime's tests that are skipped where only a user's packages are.
test-rest: $(DEV)/installed
	$(DEV)/bin/python -m pytest -q $(addprefix --ignore tests/,export models benchmarks runtime fuzz)
	$(DEV)/bin/python -m pytest -q $$(grep -rl --include='*.py' importorskip tests/runtime)

# With the oldest releases of a user's packages that pyproject.toml allows: what most depends on each of them.
test-floor: $(FLOOR)/installed
	PYTHONPATH=$(CURDIR)/runtime $(FLOOR)/bin/python -m pytest -q tests/runtime/machine tests/runtime/test_pipeline.py \
	    $(addprefix tests/runtime/,test_bundle.py test_layers.py) \
	    $(addprefix tests/runtime/drawing/,test_images.py test_picture_file.py test_picture_process.py test_tokenizer.py) \
	    $(addprefix tests/runtime/server/,test_serve.py test_openai.py) \
	    tests/runtime/server/test_comfyui.py::test_a_server_speaks_websockets_and_leaves_them_when_it_stops \
	    --deselect tests/runtime/machine/test_known_releases.py::test_the_release_that_is_recommended_has_none_and_is_what_the_tests_run_with

# A batch on Ray clusters of up to four nodes on this machine; not part of `make test`: Ray is large, and nodes take their time.
test-fleet: $(DEV)/installed
	$(DEV)/bin/pip install -q $(PIP_FLAGS) -c constraints.txt -e ".[ray]"
	$(DEV)/bin/python -m pytest -q tests/runtime/batch/test_fleet.py

lint: $(DEV)/installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

# Other CPUs than this one, by QEMU; BUNDLE names another bundle than the embedded one.
emulate: $(LIGHT)/installed
	PYTHONPATH=tests $(LIGHT)/bin/python -m emulate $(BUNDLE)

# All readers of strangers' files and requests, against changed inputs; SECONDS of each, and SEED for other ones.
fuzz: $(LIGHT)/installed
	PYTHONPATH=tests:benchmarks $(LIGHT)/bin/python -m fuzz --seconds $(SECONDS) --seed $(SEED) --jobs $(JOBS)

clean:
	rm -rf $(DEV) build dist demo.png

# Everything, editable: what developers use. Of PyTorch's company, what is imported is compiled then.
$(DEV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install -q $(PIP_FLAGS) --no-compile -c constraints.txt -e ".[cpu,server,mcp,batch,evaluate,export,train,test,lint]"
	touch $@

# What a user has: the built wheel with ONNX Runtime, no PyTorch; what the tests need comes on top.
$(LIGHT)/installed: pyproject.toml constraints.txt README.md LICENSE $(PACKAGES)
	$(PYTHON) -m venv $(LIGHT)
	rm -rf build/wheel
	$(LIGHT)/bin/pip wheel -q $(PIP_FLAGS) --no-deps -w build/wheel .
	$(LIGHT)/bin/pip install -q $(PIP_FLAGS) -c constraints.txt --force-reinstall --no-deps build/wheel/*.whl
	$(LIGHT)/bin/pip install -q $(PIP_FLAGS) -c constraints.txt "pocket-diffusion[cpu,server,mcp] @ file://$(CURDIR)/$$(ls build/wheel/*.whl)" pytest hypothesis httpx2
	touch $@

# uv, unlike pip, can choose the oldest releases; those that no wheel exists of for this Python are passed over.
$(FLOOR)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/pip install -q $(PIP_FLAGS) -c constraints.txt uv
	$(FLOOR)/bin/uv pip install -q --python $(FLOOR) --only-binary :all: --resolution lowest-direct -r pyproject.toml --extra cpu --extra mcp
	$(FLOOR)/bin/uv pip install -q --python $(FLOOR) -c constraints.txt pytest hypothesis httpx2
	touch $@
