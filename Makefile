# make demo   set everything up and run a real audit end to end (no torch)
# make test   the whole test suite
# make check  format, lint, types, duplicates, imports, sizes, drift of generated files
# make torture  the long variants: 1000 kills of the server, 300 other faults, 10,000 watches, 20 times the fuzzing
# make wheels the five distributions, into dist/
# make site  the documentation, into site/
# make proto  regenerate the gRPC code       make bench  timings, as ratios measured in one run
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EDITABLE := -e './policy' -e './proto' -e '.[cpu]' -e './server[cpu]' -e './client'

.PHONY: demo test check torture wheels site proto bench clean

$(VENV)/.demo: pyproject.toml policy/pyproject.toml proto/pyproject.toml server/pyproject.toml client/pyproject.toml
	@echo "1/2 an environment of its own, in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/2 lieaudit and what it stands on, about 100 MB: a minute or two, pip says what it is at"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on $(EDITABLE)
	@touch $@

# torch must be the CPU build where one is offered; anything else pulls gigabytes of CUDA.
$(VENV)/.test: $(VENV)/.demo requirements-test.txt
	$(PIP) -r requirements-test.txt
	@touch $@

$(VENV)-proto/.done: requirements-proto.txt
	test -x $(VENV)-proto/bin/python || $(PYTHON) -m venv $(VENV)-proto
	$(VENV)-proto/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-proto.txt
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/python examples/digits/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

torture: $(VENV)/.test
	LIEAUDIT_KILLS=1000 LIEAUDIT_FAULTS=300 LIEAUDIT_WATCHES=10000 LIEAUDIT_FUZZ=20 $(BIN)/python -m pytest \
	    tests/server/kills tests/server/test_endings.py tests/server/test_fuzz.py

check: $(VENV)/.test $(VENV)-proto/.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/packaging/test_duplicates.py tests/packaging/test_imports.py tests/packaging/test_module_sizes.py
	PYTHON=$(VENV)-proto/bin/python proto/generate --check

wheels: $(VENV)/.test
	for part in policy proto . server client; do $(BIN)/python -m build --wheel --outdir dist $$part; done

site: $(VENV)/.test
	$(BIN)/python -m mkdocs build --quiet

proto: $(VENV)-proto/.done
	PYTHON=$(VENV)-proto/bin/python proto/generate

bench: $(VENV)/.test
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(VENV)-proto out dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
