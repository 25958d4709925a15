# make demo    adversarial training and FAIR-TAT on handwritten digits, compared class by class
# make test    lint, types, import layers and the everyday tests, in a few minutes
# make test-all  the same with the slow tests: what CI runs
# make mutants  plants thirty faults, one by one, and shows whether the tests notice (an hour)
# make reliability  injects every fault of docs/reliability.md and writes that table
# make fuzz    10,000 hostile inputs to the ops, core against reference (minutes; others in every run)
# make sanitize  builds the core with AddressSanitizer and UBSan, and runs the ops' tests and the fuzz on it
# make docs   the documentation as a site in build/docs; warnings and broken links are errors
# make wheels  sdist and wheel in dist/, the wheel repaired where auditwheel is, then tried beside PyTorch alone
# make matrix  fairtat in a fresh environment of each interpreter in PYTHONS, as wheel, pure Python and editable
# make release  checks and tests a version, builds its files in dist/, and tags it with its notes from CHANGELOG.md
# make bench   the benchmarks (minutes; on a quiet machine), written to benchmarks/results/ and saved in .benchmarks/
# make bench-compare  the benchmarks again, beside the last saved run; fails if a median is more than COMPARE=10% slower
# make gpu-check  on a machine with a GPU: builds for it, tests, sanitizers, benchmarks, the GPU tables of docs/performance.md
#
# Each target but the last sets itself up in .venv on a fresh machine; PYTHON chooses the interpreter.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
DEMO   := runs/demo
SHELL  := bash
.SHELLFLAGS := -eu -o pipefail -c
# Where a CUDA compiler is found: two architectures are enough to develop with, and quick to compile.
export CMAKE_CUDA_ARCHITECTURES ?= 80-real;90
# CMake and Ninja come from PyPI into the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

native := setup.py CMakeLists.txt pyproject.toml constraints.txt $(shell find csrc -type f)

.PHONY: demo test test-all mutants reliability fuzz sanitize lint format bench bench-compare docs wheels matrix release gpu-check clean

$(VENV)/.base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade pip -c constraints.txt
	$(PIP) install -q -c constraints.txt setuptools wheel cmake ninja pybind11 torch
	touch $@

$(VENV)/.demo: $(VENV)/.base $(native)
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[train,eval]'
	touch $@

$(VENV)/.dev: $(VENV)/.base $(native) benchmarks/peers.txt
	FAIRTAT_NATIVE=1 FAIRTAT_WERROR=1 $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(PIP) install -q --no-deps -r benchmarks/peers.txt
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	rm -rf $(DEMO)
	$(BIN)/fairtat train --config configs/digits.yaml --output $(DEMO)/at
	$(BIN)/fairtat train --config configs/digits.yaml --config configs/methods/fairtat.yaml --output $(DEMO)/fairtat
	$(BIN)/fairtat evaluate $(DEMO)/at
	$(BIN)/fairtat evaluate $(DEMO)/fairtat
	$(BIN)/fairtat compare $(DEMO)/at $(DEMO)/fairtat --output $(DEMO)/comparison
	$(BIN)/fairtat report $(DEMO)/at/evaluation/test.json $(DEMO)/fairtat/evaluation/test.json --output $(DEMO)/report.html

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A process per core, a file at a time: what a file's tests share is made once.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile

test: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: lint
	$(BIN)/python -m pytest $(PARALLEL)

mutants: $(VENV)/.dev
	$(BIN)/python tests/mutants.py

reliability: $(VENV)/.dev
	FAIRTAT_WRITE_RELIABILITY=1 $(BIN)/python -m pytest -m fault

FUZZ := tests/hostile/test_fuzz_ops.py --hypothesis-profile=fuzz

fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest $(FUZZ)

# A build of its own beside the development one. Python is no sanitized program, so the runtimes are loaded before it,
# and what it never frees is no leak of ours.
SANITIZED := build/sanitize
RUNTIMES = $(foreach name,libasan.so libubsan.so libstdc++.so,$(shell $(CXX) -print-file-name=$(name)))

sanitize: $(VENV)/.dev
	cmake -S . -B $(SANITIZED) -G Ninja -DFAIRTAT_SANITIZE=ON -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/$(SANITIZED)/lib \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	cmake --build $(SANITIZED)
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		PYTHONPATH=tests/hostile FAIRTAT_SANITIZED=$(SANITIZED)/lib $(BIN)/python -m pytest -p sanitized_core \
		--capture=sys -m "not slow" tests/ops tests/backends/test_native.py $(FUZZ)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One process per script: compiled graphs, thread pools and memory of one must not affect the next.
BENCH = for script in $(BENCH_SCRIPTS); do $(BIN)/python -m pytest -q $$script --threads 2 \
	--benchmark-storage=.benchmarks/$$(basename $$script .py)
BENCH_SCRIPTS ?= $(sort $(wildcard benchmarks/*/bench_*.py))
COMPARE ?= 10%

bench: $(VENV)/.dev
	status=0; $(BENCH) --results benchmarks/results --benchmark-autosave || [ $$? -eq 5 ] || status=1; done; exit $$status
	$(BIN)/python benchmarks/readme_table.py --write

bench-compare: $(VENV)/.dev
	status=0; $(BENCH) --benchmark-compare --benchmark-compare-fail=median:$(COMPARE) || [ $$? -eq 5 ] || status=1; done; exit $$status

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) install -q -c constraints.txt -e '.[docs]' --no-build-isolation
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir build/docs
	@echo "build/docs/index.html"

# A wheel for this machine, without CUDA; [tool.cibuildwheel] in pyproject.toml makes those of a release. PyTorch brings
# libgomp, of which a process must load one copy alone, so no wheel has its own.
WHEELS ?= dist

wheels: $(VENV)/.dev
	rm -rf $(WHEELS)
	FAIRTAT_NATIVE=1 FAIRTAT_CUDA=0 $(BIN)/python -m build --no-isolation --outdir $(WHEELS)
	if $(BIN)/python -c "import auditwheel, patchelf" 2> /dev/null; then \
		$(BIN)/python -m auditwheel repair --exclude 'libgomp.so*' --wheel-dir $(WHEELS)/repaired $(WHEELS)/*.whl && \
		mv $(WHEELS)/repaired/*.whl $(WHEELS)/ && rm -f $(WHEELS)/*-linux_*.whl && rmdir $(WHEELS)/repaired; \
	else echo "auditwheel and patchelf are not installed: the wheel serves machines like this one"; fi
	$(BIN)/python tests/check_wheel.py $(WHEELS)/*.whl

PYTHONS ?= $(BIN)/python

matrix: $(VENV)/.base
	$(BIN)/python tests/matrix.py $(MATRIX) $(PYTHONS)

# The version is that of fairtat/_version.py; the tag is made from it, last.
release: $(VENV)/.dev
	test -z "$$(git status --porcelain)" || { echo "the tree differs from HEAD: commit first" >&2; exit 1; }
	version=$$($(BIN)/python -c "import fairtat; print(fairtat.__version__)"); \
	grep -Eq "^## \[$$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$$" CHANGELOG.md || \
		{ echo "CHANGELOG.md has no dated entry for $$version" >&2; exit 1; }; \
	$(MAKE) test-all wheels; \
	awk -v head="## [$$version]" '/^## / { on = index($$0, head) } on' CHANGELOG.md | \
		git tag -a "v$$version" --cleanup=verbatim -F -; \
	echo "tagged v$$version; upload dist/ and push the tag"

# No .venv and no network: the interpreter's own environment has PyTorch for the GPU. GPU_CHECK passes options.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py $(GPU_CHECK)

clean:
	rm -rf $(VENV) build dist *.egg-info fairtat/_C*.so
