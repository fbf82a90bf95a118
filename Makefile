# make reproduce   data, fine-tuning, synthetic images, measurements, tables, figures and report of one profile
# make test        everything that is checked
# make test-elsewhere   all that trains, once more as another processor would compute it
# make lab         JupyterLab at the quickstart
# make outputs     run the library notebooks and store their outputs
# make docs        README.md from nbs/index.ipynb, and the documentation site in _docs
# make clean       remove what was built; runs/ stays
PYTHON  ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?= quick
# Jobs at a time, each with an equal share of the cores
JOBS    ?= 2
OUT     ?= runs/$(PROFILE)
BIN     := .venv/bin
STAMP   := .venv/.install-stamp
# One thread, so that sums come out alike on any number of cores
QUIET   := OMP_NUM_THREADS=1 MEDSOFT_PROGRESS=0 TQDM_DISABLE=1

.PHONY: reproduce test test-elsewhere lab check-export check-readme check-tests outputs docs clean

reproduce: $(STAMP)
	$(BIN)/medsoft reproduce --profile $(PROFILE) --out $(OUT) --jobs $(JOBS)

test: check-export check-readme check-tests

lab: $(STAMP)
	$(BIN)/jupyter lab nbs/tutorials/quickstart.ipynb

# The tree is copied aside, so that these checks also work on changes that are not committed yet.
check-export: $(STAMP)
	@echo "== library modules are what the notebooks export"
	@rm -rf build/check && mkdir -p build/check && cp -r medsoft_nb build/check/
	@find medsoft_nb -name '[!_]*.py' -delete && rm -f medsoft_nb/_modidx.py
	@$(BIN)/nbdev-export
	@diff -r -x __pycache__ build/check/medsoft_nb medsoft_nb || \
	  { echo "The export differs: it was made anew, look at it and commit it (git diff medsoft_nb)."; exit 1; }
	@$(MAKE) -s git-clean FOLDER=medsoft_nb

# A process for each notebook: what one sets (pandas, matplotlib, torch) must not show in another.
outputs: $(STAMP)
	@find nbs -name '[!._]*.ipynb' -not -path '*/.*' -not -path 'nbs/experiments/*' -not -path '*/_*/*' -not -path '*/runs/*' | sort | $(QUIET) xargs -P 2 -n 1 $(BIN)/nbdev-test --n-workers 0 --save --timing --flags slow --cell-timeout 36000
	@$(BIN)/python -c "from medsoft_nb.apps.outputs import drop_stderr; drop_stderr('nbs')"
	@$(BIN)/nbdev-clean

check-readme: $(STAMP)
	@echo "== README.md is what nbs/index.ipynb gives"
	@$(BIN)/python -c "from medsoft_nb.apps.pages import readme; readme(check=True)"

check-tests: $(STAMP)
	@echo "== notebooks run and show what they store; tests"
	$(QUIET) $(BIN)/python -m pytest -q -n 2

# A processor without vector units above SSE 4.1 and without bf16, and another number of threads
test-elsewhere: $(STAMP)
	@echo "== as another processor would compute it"
	$(QUIET) OMP_NUM_THREADS=2 MEDSOFT_BF16=0 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest -q -n 2 -m trains

# In continuous integration the checkout is clean, and must still be so.
.PHONY: git-clean
git-clean:
	@if [ -z "$$CI" ]; then :; \
	elif ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then echo "No git checkout: not compared with the committed files."; \
	else git --no-pager diff --exit-code --stat -- $(FOLDER); fi

docs: $(STAMP)
	$(BIN)/python -c "from medsoft_nb.apps.pages import readme; readme()"
	$(BIN)/medsoft docs --out _docs

clean:
	rm -rf build dist *.egg-info _proc _docs _site_src .pytest_cache .hypothesis .ruff_cache
	find . -name .venv -prune -o -name runs -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 rm -rf

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
