# What does a fresh checkout need? `make run` sets up and trains the main job; `make test` sets up and runs every test.
# `make engines` adds DeepSpeed, FairScale and Horovod, which pip alone cannot (the first horovod compiles for minutes).
#
#   make run  PYTHON=python3.12          another interpreter (3.11 or newer)
#   make run  INDEX=URL FIND_LINKS=PLACE another package index, and a folder or page of wheels
#   make test ARGS="-k layout"           more arguments for pytest
#
# Stamps in .venv remember what is installed, so a second call installs nothing.

PYTHON ?= python3.13 python3.12 python3.11 python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint lock.txt
DECLARED := pyproject.toml setup.py lock.txt

ifdef INDEX
export PIP_INDEX_URL := $(INDEX)
endif
ifdef FIND_LINKS
export PIP_FIND_LINKS := $(FIND_LINKS)
endif

.PHONY: run test engines bench lint lock clean
.DELETE_ON_ERROR:

run: $(VENV)/.run
	$(BIN)/shardwright run gpt

test: $(VENV)/.test $(VENV)/.engines
	$(BIN)/python -m pytest $(ARGS)

engines: $(VENV)/.engines

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py $(ARGS)

lint: $(VENV)/.test
	$(BIN)/python -m pytest -q tests/house/test_style.py tests/house/test_floors.py tests/house/test_types.py

# The first interpreter that is new enough and can make an environment.
$(VENV)/.made:
	@found=; old=; for name in $(PYTHON); do \
	    "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    "$$name" -c 'import ensurepip, venv' 2>/dev/null && found="$$name" && break; \
	    test -n "$$old" || old="$$name"; \
	done; \
	if test -z "$$found" && test -n "$$old"; then \
	    package=$$("$$old" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])'); \
	    echo "$$old cannot make a virtual environment: run 'sudo apt-get install $$package', then call make again." >&2; exit 1; \
	elif test -z "$$found"; then \
	    echo "No Python 3.11 or newer among $(PYTHON): install one, or name it with 'make PYTHON=/path/to/python'." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$found -V)"; "$$found" -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made $(DECLARED)
	@echo "Installing Shardwright with the versions of lock.txt"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable '.[train,hf,track,data]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "Installing what the tests need"
	@$(PIP) --no-build-isolation --editable '.[train,hf,track,data,test]'
	@touch $@

# Their builds look at the torch that is installed, so they see this environment; horovod's wheel is built here.
$(VENV)/.engines: $(VENV)/.run trainers/engines/horovod_wheel.py
	@echo "Installing the engines deepspeed, fairscale and horovod"
	@$(PIP) setuptools wheel
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation --editable '.[train,deepspeed,fairscale]'
	@wheel=$$($(BIN)/python trainers/engines/horovod_wheel.py) && $(PIP) "$$wheel"
	@touch $@

$(VENV)/.bench: $(VENV)/.test benchmarks/requirements.txt
	@echo "Installing the peers that the benchmarks compare with"
	@$(PIP) --requirement benchmarks/requirements.txt
	@touch $@

# Newest versions of everything, with the torch that the project stands on, in an environment of its own; a build
# tag such as +cpu is dropped, so that the installer picks the build of its machine.
TORCH := torch==2.13.0
lock:
	$(firstword $(wildcard $(BIN)/python) python3) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade setuptools
	.venv-lock/bin/python -m pip install --quiet --no-build-isolation '$(TORCH)' \
	    --editable '.[train,hf,track,data,test]' --requirement benchmarks/requirements.txt
	DS_BUILD_OPS=0 .venv-lock/bin/python -m pip install --quiet --no-build-isolation '.[deepspeed,fairscale]' wheel
	.venv-lock/bin/python -m pip install --quiet "$$(.venv-lock/bin/python trainers/engines/horovod_wheel.py)"
	.venv-lock/bin/python -m pip list --format=freeze --exclude pip --exclude shardwright > .venv-lock/installed
	(sed -n '/^#/p' lock.txt; sed 's/+.*//' .venv-lock/installed) > lock.txt.new && mv lock.txt.new lock.txt
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
