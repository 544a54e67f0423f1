# Every target stands on its own: it makes .venv with the versions of constraints.txt first, if need be.
PYTHON ?= python3
BIN = .venv/bin
export METABOOK_PROGRESS = 0

.PHONY: help book test lint library notebooks site lab record bench rehearsal clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[book,digits,dev]"
	@touch $@

book: .venv/installed  ## build the site into _build/html
	$(BIN)/jupyter-book build . -W --keep-going --quiet
	@echo "The book is built. Open file://$(CURDIR)/_build/html/index.html"

test: lint library notebooks site  ## everything: lint, library, notebooks, site

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

library: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest tests --ignore=tests/site -n 2 --dist loadgroup -q -rs --cov=metabook --cov-report=term:skip-covered

notebooks: .venv/installed  ## run every chapter and compare with its stored outputs
	OMP_NUM_THREADS=1 $(BIN)/pytest book --nbval --nbval-current-env -n 2 --dist loadfile -q -rs

site: book
	$(BIN)/pytest tests/site -n 2 --dist loadgroup -q -rs

lab: .venv/installed  ## open the chapters in JupyterLab
	METABOOK_PROGRESS=1 $(BIN)/jupyter lab book

record: .venv/installed  ## run the chapters and store their outputs
	$(BIN)/python tools/record.py

bench: .venv/installed  ## speed beside other libraries, on a quiet machine; see benchmarks/README.md
	$(BIN)/python -m benchmarks

rehearsal: .venv/installed  ## run the chapters as Colab would: a bare environment, no checkout
	$(BIN)/python tools/colab_rehearsal.py

clean:  ## remove what was built, and the environment
	rm -rf _build .venv
