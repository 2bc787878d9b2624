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

PACKAGES := $(shell find runtime export models -type f -not -name '*.pyc')

.PHONY: demo test test-light test-dev lint emulate fuzz clean

demo: $(LIGHT)/installed
	$(LIGHT)/bin/pocket-diffusion generate "a lake under snowy mountains at sunset" --seed 1 -o demo.png

# The two run side by side, since each has a core to spare much of the time; PyTorch keeps to one.
test: $(DEV)/installed $(LIGHT)/installed
	OMP_NUM_THREADS=1 $(MAKE) -j2 test-light test-dev

test-light: $(LIGHT)/installed
	$(LIGHT)/bin/python -c "import importlib.util as u; assert not (u.find_spec('torch') or u.find_spec('onnx'))"
	$(LIGHT)/bin/python -m pytest -q tests/runtime tests/fuzz

# Of the runtime's tests, those rooms that have comparisons with PyTorch and its company.
test-dev: $(DEV)/installed
	$(DEV)/bin/python -m pytest -q --ignore tests/runtime --ignore tests/fuzz
	$(DEV)/bin/python -m pytest -q tests/runtime/drawing tests/runtime/machine

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

# Everything, editable: what developers use.
$(DEV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install -q $(PIP_FLAGS) -c constraints.txt -e ".[cpu,server,mcp,export,train,test,lint]"
	touch $@

# What a user has: the built wheel with ONNX Runtime, no PyTorch; what the tests need comes on top.
$(LIGHT)/installed: pyproject.toml constraints.txt README.md LICENSE $(PACKAGES)
	$(PYTHON) -m venv $(LIGHT)
	rm -rf build/wheel
	$(LIGHT)/bin/pip wheel -q $(PIP_FLAGS) --no-deps -w build/wheel .
	$(LIGHT)/bin/pip install -q $(PIP_FLAGS) -c constraints.txt --force-reinstall --no-deps build/wheel/*.whl
	$(LIGHT)/bin/pip install -q $(PIP_FLAGS) -c constraints.txt "pocket-diffusion[cpu,server,mcp] @ file://$(CURDIR)/$$(ls build/wheel/*.whl)" pytest hypothesis httpx2
	touch $@
