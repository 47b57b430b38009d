# Two commands for a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCK := requirements.lock

.PHONY: help install demo published test check coverage docs wheel clean

help:
	@echo "make demo   set up, run the whole workflow on phantoms, end with a report (minutes)"
	@echo "make test   set up, check the code, run all tests"
	@echo "make published TABLES=FOLDER   draw the paper's figures 2, 4 and 6c from its own tables (a minute)"
	@echo "make check  formatting, lint and types only"
	@echo "make coverage  the quick tests again, with the lines that none of them runs"
	@echo "make docs   write the generated pages and pictures, build the site (build/site/index.html)"
	@echo "make wheel  build the package (dist/)"

install: $(VENV)/.installed

$(VENV)/.installed: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "error: Python 3.11 to 3.13 is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps lighter-zoo==0.1.3
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Networks as small as these gain nothing from a second core, but as many jobs as cores run at once.
demo: install
	OMP_NUM_THREADS=1 $(BIN)/snakemake --configfile config/demo.yaml \
	  --set-threads pretrain_encoder=1 probe_checkpoints=1 embed_dataset=1 adapt_encoder=1
	@echo "The report: results/demo/report/report.html"

# TABLES: the folder of the tables that were published with the paper; they are not shipped here.
OUT ?= results/published_tables
published: install
	@test -d "$(TABLES)" || { echo "error: name the folder of the tables: make published TABLES=FOLDER" >&2; exit 2; }
	$(BIN)/python -m ctfm import-published "$(TABLES)" --out "$(OUT)"
	$(BIN)/python -m ctfm figures --config config/config.yaml --results "$(OUT)" --out "$(OUT)/report/figures" \
	  --id fig2 --id fig4 --id fig6 --id ed1
	$(BIN)/python -m ctfm report --config config/config.yaml --results "$(OUT)" --out "$(OUT)/report/report.html"
	@echo "The figures: $(OUT)/report/figures; the page: $(OUT)/report/report.html"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules workflow
	$(BIN)/mypy
	$(BIN)/snakemake --configfile config/demo.yaml --lint

# The tables of an older release of the index can't be installed beside the newest; without them some tests are skipped.
test: check
	-$(BIN)/python -m ctfm fetch-index
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not workflow'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m workflow --durations 12

# Beside the tests, not within them: tracing costs half as much time again on Python 3.11 (little from 3.12 on).
coverage: install
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	  $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not workflow' --cov --cov-report term --cov-report html:build/coverage

docs: install
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/rulegraph.py
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees -c docs . build/site
	@echo "The site: build/site/index.html"

wheel: install
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf results/demo .snakemake build dist
