# Every job of the book. Each target does its own set-up, in .venv, the first time.
# Works with GNU make 3.81 (macOS) and later. Without make: see README.md.

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000

# A Python that was named is taken or refused; otherwise the first that fits.
ifeq ($(origin PYTHON),undefined)
PYTHONS := python3 python3.13 python3.12 python3.11
else
PYTHONS := $(PYTHON)
endif

# Whatever a page can depend on. What of it has to be executed and built again, the build knows:
# see sphinx_ext/execution.py.
BOOK_SOURCES := $(shell find assets benchmarks/results chapters dpmpp_core sphinx_ext -type f \
	! -path '*/__pycache__/*' ! -path '*/.ipynb_checkpoints/*' ! -name '.*') \
	intro.md _config.yml _toc.yml references.bib CHANGELOG.md $(wildcard tests/*.py)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help:
	@echo "make book    install, execute every chapter, build the pages into _build/html"
	@echo "make page    build one page alone, as its author: make page PAGE=chapters/one-step"
	@echo "make serve   show the built book at http://127.0.0.1:$(PORT) (PORT=... for another)"
	@echo "make lab     open the chapters as notebooks in JupyterLab"
	@echo "make test    run the tests, the browser tests too where there is a Chromium"
	@echo "make lint    ruff, ruff format --check, mypy"
	@echo "make zip     the built pages as one file to take along: _build/one-sampler.zip"
	@echo "make pdf     the book as one PDF, which takes minutes: _build/one-sampler.pdf"
	@echo "make bench   time the live figures in Chromium, and the sampler against its peers"
	@echo "make clean   remove everything that was built; .venv stays"
	@echo "PYTHON=...   names the Python to use: 3.11, 3.12 or 3.13"

# --- set-up, once each

$(VENV)/.made: tools/pick_python.sh
	@python=$$(sh tools/pick_python.sh $(PYTHONS)) \
	&& echo "$$python -m venv $(VENV)" \
	&& "$$python" -m venv --clear $(VENV)
	@touch $@

# Not compiled: Python does that with what it imports, and pip would with all, for a minute. Python
# keeps it, even where the environment asks it not to: each chapter would compile torch again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --no-compile

$(VENV)/.book-ready: $(VENV)/.made requirements.txt pyproject.toml tools/jupyterlab_overrides.json
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	mkdir -p $(VENV)/share/jupyter/lab/settings
	cp tools/jupyterlab_overrides.json $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.book-ready requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

# --- jobs

# One thread: the chapters' tensors are small, and more threads wait for each other longer than they work.
# A page that was read is not read again, and its warning not given again: after a failure all are.
_build/.built: $(VENV)/.book-ready $(BOOK_SOURCES)
	OMP_NUM_THREADS=1 $(BIN)/jupyter-book build -W -n --keep-going . \
	|| { rm -rf _build/.doctrees; exit 1; }
	@touch $@

.PHONY: book
book: _build/.built
	@echo
	@echo "The book is built. Open _build/html/index.html in a browser, or run: make serve"

# Links to other pages lead nowhere here, and are warned of.
.PHONY: page
page: $(PAGE).md $(VENV)/.book-ready
	@mkdir -p _build
	@printf 'format: jb-book\nroot: $(PAGE)\nchapters:\n- file: chapters/references\n' > _build/page.yml
	OMP_NUM_THREADS=1 $(BIN)/jupyter-book build --toc _build/page.yml --path-output _build/page .
	@echo "Open _build/page/_build/html/$(PAGE).html in a browser."

.PHONY: serve
serve: _build/.built
	@echo "http://127.0.0.1:$(PORT)  (Ctrl+C stops it)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

.PHONY: lab
lab: $(VENV)/.book-ready
	$(BIN)/jupyter-lab

.PHONY: test
test: $(VENV)/.dev-ready _build/.built
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: lint
lint: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: zip
zip: _build/.built
	$(BIN)/python tools/zip_site.py

.PHONY: pdf
pdf: $(VENV)/.dev-ready _build/.built
	$(BIN)/python tools/pdf.py

.PHONY: bench
bench: $(VENV)/.dev-ready
	$(PIP) --no-deps -r requirements-bench.txt
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/sampler.py

.PHONY: clean
clean:
	rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
