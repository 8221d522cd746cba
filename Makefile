# make demo    install, generate demo data, train, test, fuse, print a table of results
# make test    run the test suite
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := config/demo-lt
QUIET ?=

.PHONY: demo test lint clean

demo: $(VENV)/installed data/demo/meta.json data/lists/demo_30.txt
	$(RUN) -m tools.compare --benchmark demo --methods cross-entropy,brl --equal-steps --jobs auto $(QUIET)
	$(RUN) main.py --config $(DEMO)/joint.yaml --stream joint bone skip --jobs auto --resume $(QUIET)
	$(RUN) -m tools.report work_dir/demo-lt work_dir/demo-lt-cross-entropy-steps*
	$(RUN) -m data.demo --out clip.skeleton

data/demo/meta.json: data/demo.py $(VENV)/installed
	$(RUN) -m data.prepare demo --out data/demo

data/lists/demo_30.txt: data/demo/meta.json
	$(RUN) -m data.long_tail demo-xsub --names data/demo --imbalance 30 --out $@

# A test process per core, one thread each; the tests of a file stay together.
test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(VENV)/installed: requirements.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) work_dir data/demo
