# `make book` and `make test` set up what they need. COMPUTE=1 lets the build compute other presets than quick.
PYTHON ?= python3
PRESET ?= published
COMPUTE ?= 0
BIN := .venv/bin

.PHONY: help setup browser course book assignments test bench publish-check clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/installed  ## create .venv and install the pinned requirements

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("eoslib needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

browser: setup
	@$(BIN)/python tests/browser.py

course: .venv/course

.venv/course: requirements-course.txt .venv/installed
	$(BIN)/pip install --quiet -r requirements-course.txt
	touch $@

assignments: course  ## make the course's notebooks for students and lecturers, and try them, in _build/assignments
	$(BIN)/python assignments/make.py

book: setup  ## run the chapters that changed and build the site into _build/html (PRESET=published|quick|standard|paper)
	EOSLIB_PRESET=$(PRESET) COMPUTE=$(COMPUTE) $(BIN)/jupyter-book build .

test: setup course browser  ## lint and run all tests (no GPU, no download, at most 30 minutes on 2 cores)
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

bench: setup  ## measure against public peers; writes benchmarks/results.json and two pictures
	$(BIN)/pip install --quiet --no-deps -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/run.py

publish-check: book  ## what the workflows of .github do, here: lint them, build, follow the links, lay the site out beside older versions
	PATH=$(BIN):$$PATH $(BIN)/actionlint
	$(BIN)/linkchecker --no-status --config .github/linkcheckerrc _build/html/index.html
	rm -rf _build/pages.git && git init --quiet --bare _build/pages.git
	$(BIN)/python .github/publish.py _build/html _build/pages.git v$$(sed -n 's/^version: //p' CITATION.cff)

clean:  ## delete the site and the executed notebooks; the run store and .venv stay
	rm -rf _build .executed
