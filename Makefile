# Two commands are enough: `make quickstart` and `make test`. Only Python 3.11 or newer and make are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# one thread a worker: two workers with two threads each would only wait for one another
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: quickstart test test-changed test-all check format wheel docs benchmarks default-model default-detector left-out clean

quickstart: $(VENV)/.train  ## two synthetic laboratories: train in one, test in both, count a smear
	$(BIN)/hemalens quickstart --out runs/quickstart --overwrite

test: $(VENV)/.dev  ## the fast suite
	$(PYTEST) -m "not slow"

# the branch, tag or commit that a change is compared with
BASE ?= HEAD

test-changed: $(VENV)/.dev  ## the fast tests of the modules that differ from BASE
	@tests=$$($(BIN)/python tools/changed_tests.py $(BASE)) || exit 1; \
	test -n "$$tests" || { echo "no test belongs to what differs from $(BASE)"; exit 0; }; \
	$(PYTEST) -m "not slow" $$tests || test $$? -eq 5

test-all: $(VENV)/.dev  ## everything, slow tests included
	$(PYTEST)

check: $(VENV)/.dev  ## lint, format, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.dev  ## build the wheel, install it without torch outside the checkout, predict one cell
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --outdir dist .
	$(BIN)/python tools/check_wheel.py dist/*.whl

docs: $(VENV)/.docs  ## the documentation site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site
	@echo "open site/index.html; with the search: $(BIN)/python -m http.server --directory site"

benchmarks: $(VENV)/.dev  ## ours beside others in one run; BENCHMARKS="--quick", "--only startup"
	$(BIN)/python benchmarks/run.py $(BENCHMARKS)

# the default model: trained on two sets of cells and on cut-outs of fields, tested on three others, made smaller, packaged
DATA ?= ../shared/data
RUN ?= runs/default_model
TRAINING ?= --labels smear --leave-out raabin --cell-image centred --test-fraction 0.1
TARGETS := jtsc:$(DATA)/zheng2018 cellavision100:$(DATA)/zheng2018 raabin:$(DATA)/raabin
SETS := acevedo20:$(DATA)/acevedo20 bccd:$(DATA)/bccd cut_outs:txl_pbc:$(DATA)/txl_pbc

default-model: $(VENV)/.train  ## a quarter of an hour: train, shrink, test and package the default model; DATA=, RUN=, TRAINING=
	test -f $(RUN)/report.json || $(BIN)/hemalens train robust $(SETS:%=--train %) $(TRAINING) --out $(RUN)
	$(BIN)/hemalens quantize $(RUN)/bundle --precision fp16 --calibrate $(firstword $(SETS)) --out $(RUN)/fp16 --overwrite
	for target in $(TARGETS); do \
		tests=$(RUN)/tests/$${target%%:*} && \
		$(BIN)/hemalens evaluate $(RUN)/fp16 --data $$target --min-per-class 5 --out $$tests --overwrite && \
		$(BIN)/hemalens adapt $(RUN)/fp16 --unlabelled $$target --out $${tests}_bundle --overwrite && \
		$(BIN)/hemalens evaluate $${tests}_bundle --data $$target --min-per-class 5 \
			--out $${tests}_adapted --overwrite || exit 1; \
	done
	$(BIN)/python tools/package_model.py $(RUN)/fp16 --overwrite --report $(RUN)/report.json \
		--remarks tools/default_model_remarks.txt \
		$(foreach target,$(TARGETS),--report $(RUN)/tests/$(firstword $(subst :, ,$(target)))/report.json \
			--report $(RUN)/tests/$(firstword $(subst :, ,$(target)))_adapted/report.json) \
		$(if $(wildcard $(LEAVE_OUT_RUN)/report.json),--left-out $(LEAVE_OUT_RUN)/report.json)

# what the recipe does in laboratories that were not learned; the card of the default model takes it where it is there
LEAVE_OUT_RUN ?= runs/left_out
LABORATORIES := acevedo20:$(DATA)/acevedo20 raabin:$(DATA)/raabin jtsc:$(DATA)/zheng2018 \
	cellavision100:$(DATA)/zheng2018 bccd:$(DATA)/bccd

left-out: $(VENV)/.train  ## two hours: train on all laboratories but one, test on that one, each in turn; DATA=
	$(BIN)/hemalens benchmark --methods robust --protocol leave-one-laboratory-out $(LABORATORIES:%=--source %) \
		--cell-image centred --min-per-class 5 --set epochs=8 --leave-one-laboratory-out seeds=3 \
		--leave-one-laboratory-out repeats=3 --workers 2 --out $(LEAVE_OUT_RUN)

# the detector in the package: it learns from none of Raabin's fields, and is tested on them and on a held-out part
FIELDS := txl_pbc:$(DATA)/txl_pbc
LEFT_OUT := raabin

default-detector: RUN := runs/default_detector
default-detector: $(VENV)/.train  ## half an hour: train, test and package the detector; DATA=, RUN=
	test -f $(RUN)/report.json || $(BIN)/hemalens train detector --train $(FIELDS) --set leave_out=$(LEFT_OUT) \
		--test-fraction 0.1 --out $(RUN)
	$(BIN)/hemalens evaluate $(RUN)/detector --data $(FIELDS) --drop-seen --out $(RUN)/tests --overwrite
	$(BIN)/python tools/package_detector.py $(RUN) --overwrite --report $(RUN)/tests/report.json \
		--remarks tools/default_detector_remarks.txt

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit("hemalens needs Python 3.11 or newer, this is %d.%d; use make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.docs: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

$(VENV)/.train: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
