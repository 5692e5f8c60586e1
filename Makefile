# Everything a developer does. Needs Python 3.11 or newer with venv, make and a package index.
# Each target prepares .venv by itself the first time, and again when pyproject.toml changes.
#
#   make test PYTHON=/opt/python3.13/bin/python3     choose the Python
#   make test ARGS="-k postpone -x" JOBS=0           more arguments for pytest, and all in one process

VENV       := .venv
# Processes that run tests: most tests wait for sockets, so twice as many as a small machine has processors.
JOBS       ?= 4
BENCH      := benchmarks/.build
BENCH_VENV := $(BENCH)/venv

# Where a virtual environment was made, when it works. A copied or moved checkout brings one that still
# runs the old place's code, and an upgrade of the system's Python can break it: then it is made again.
made_in = $(shell $(1)/bin/python -c '' 2>/dev/null && cat $(1)/.made-in 2>/dev/null)
made_by = $(if $(PYTHON),$(shell cat $(1)/.made-by 2>/dev/null))

# $(call install,FOLDER,WHAT): installs quietly; a failure shows why, and leaves no stamp.
define install
	@echo "Installing $(strip $(2)) into $(1)"
	@$(1)/bin/python -m pip install --disable-pip-version-check --no-input --quiet $(2) >$(1)/install.log 2>&1 || { \
		tail -n 15 $(1)/install.log >&2; \
		echo "make: the installation failed; the whole log is $(1)/install.log" >&2; \
		exit 1; \
	}
endef

# With CI set, every row of these tables must have fired in some test (docs/coverage.md). Not where
# ARGS may have chosen a few of the tests.
COUNTED    := c_timer c_sock c_srv_sock
COUNT_ROWS := $(if $(filter-out 0 false,$(CI)),$(if $(ARGS),,$(COUNTED:%=--fsm-cov=ginsfsm.%) --fsm-cov-fail-under=100))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check format docs bench clean

help: ## list these targets
	@echo "make TARGET, one of:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-10s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.runtime ## run the chat server of examples/chat.py, and say how to join it
	@$(VENV)/bin/ginsfsm run examples/chat.py:Chat

test: $(VENV)/.dev ## run the tests
	@$(VENV)/bin/python -m pytest -n $(JOBS) $(COUNT_ROWS) $(ARGS)

check: $(VENV)/.dev ## check formatting, lint and types
	@$(VENV)/bin/ruff format --check --quiet . || { \
		echo "make: 'make format' rewrites the files that are not formatted" >&2; \
		$(VENV)/bin/ruff format --diff --quiet . | sed -n 's/^--- /  /p' >&2; exit 1; }
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --strict
	@$(VENV)/bin/ginsfsm check ginsfsm examples

format: $(VENV)/.dev ## format the code and sort its imports
	@$(VENV)/bin/ruff check --quiet --select I --fix .
	@$(VENV)/bin/ruff format --quiet .

docs: $(VENV)/.dev ## build the documentation into docs/_build/html
	@$(VENV)/bin/python -m sphinx -b html -W --keep-going -q docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

bench: $(BENCH_VENV)/.bench ## measure against other servers on this machine
	@$(BENCH_VENV)/bin/python benchmarks/bench.py $(ARGS)

clean: ## remove what these targets made
	rm -rf $(VENV) $(BENCH) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.runtime: pyproject.toml $(VENV)/.made-in
	$(call install,$(VENV),-e .)
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.made-in
	$(call install,$(VENV),-e ".[dev]")
	@touch $(VENV)/.runtime $@

$(BENCH_VENV)/.bench: pyproject.toml benchmarks/requirements.txt $(BENCH_VENV)/.made-in
	$(call install,$(BENCH_VENV),-e . -r benchmarks/requirements.txt)
	@touch $@

# A program named python3 may be too old, or a launcher with no Python behind it: so each is asked.
$(VENV)/.made-in $(BENCH_VENV)/.made-in: %/.made-in:
	@if [ -e $* ] && ! [ -e $*/.made-by ]; then \
		echo "make: $* is there, and was not made by make, which would empty it; remove it, or say where else: make $(MAKECMDGOALS) $(if $(findstring $(BENCH),$*),BENCH=FOLDER,VENV=FOLDER)" >&2; \
		exit 1; \
	fi; \
	rm -rf $*; mkdir -p $*; touch $*/.made-by; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
		echo "Making $* with $$("$$python" --version)"; \
		"$$python" -m venv $* >$*/venv.log 2>&1 || { \
			cat $*/venv.log >&2; \
			echo "make: '$$python -m venv' failed (on Debian and Ubuntu it needs the package python3-venv)" >&2; \
			exit 1; }; \
		echo "$(PYTHON)" >$*/.made-by; \
		echo "$(CURDIR)" >$@; \
		exit 0; \
	done; \
	rm -rf $*; \
	echo "make: ginsfsm needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is not,none was found; say where one is with PYTHON=/path/to/python3)" >&2; \
	exit 1

same = $(and $(findstring x$(1)x,x$(2)x),$(findstring x$(2)x,x$(1)x))
.PHONY: $(foreach venv,$(VENV) $(BENCH_VENV),$(if $(and \
	$(call same,$(call made_in,$(venv)),$(CURDIR)),$(call same,$(call made_by,$(venv)),$(PYTHON))),,$(venv)/.made-in))
