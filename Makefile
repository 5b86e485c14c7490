# What one does here. `make demo` and `make test` need Python 3.11 and pip, nothing else.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo results sweep reliability test test-slow lint docs clean

.venv/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0  # first and exact: on a CPU-only index a looser request may pull gigabytes of CUDA
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

# The real lmms-eval, for the test that runs a task of ours in it: av < 16, so not beside ours. Of its own requirements only what a
# run imports: the others bring CUDA (torchvision, timm, sentence-transformers), OpenCV, wandb. It needs a part of filelock 3.
.venv-lmms/.installed: Makefile
	$(PYTHON) -m venv .venv-lmms
	.venv-lmms/bin/pip install -q torch==2.13.0
	.venv-lmms/bin/pip install -q "transformers==5.23.0" "accelerate<2" datasets evaluate sacrebleu loguru pyyaml jinja2 pillow \
	  "av<16" tenacity pytz python-dotenv pytablewriter "filelock<4" openai fastapi uvicorn
	.venv-lmms/bin/pip install -q --no-deps lmms-eval==0.7.3
	touch $@

demo: .venv/.installed  ## the whole chain on a small world of its own, trainings included
	$(BIN)/sevila demo

results: .venv/.installed  ## the demo's chain for ten seeds on which nothing was chosen; what the store holds is not made again
	$(BIN)/sevila results demo --seeds 11 12 13 14 15 16 17 18 19 20 -o docs/shapes-results.md

# By id: the newest of a stage may be another seed's, where `make results` ran before.
.sevila/shapes-sevila.safetensors: .venv/.installed
	$(BIN)/sevila demo
	$(BIN)/sevila weights export -o $@ \
	  $$(for stage in refine_localizer init_answerer; do basename $$($(BIN)/sevila stage $$stage demo -q | tail -n 1); done)

sweep: .sevila/shapes-sevila.safetensors  ## ways to choose keyframes of long videos, compared, with the demo's weights
	$(BIN)/sevila sweep shapes_long --weights shapes-sevila=$< --selectors random top_k aks bolt q_frame peaks oracle --k 4 8

reliability: .venv/.installed  ## kills, flipped bits, full disks, races: tried for real (full disks as root only), and counted
	$(BIN)/python -m tests.faults --kills 100 --flips 100 -o docs/reliability.md

# Compiled modules are kept, whatever the environment says: the tests start hundreds of processes.
# Where a Chromium is installed (Debian: apt-get install chromium), the report's page is tested in it.
TEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/.installed  ## two files of tests at a time; one thread each, so that they do not wait for each other
	$(TEST) -m "not slow"

test-slow: .venv/.installed .venv-lmms/.installed  ## the tests of many seconds: servers, browsers, kills, whole chains
	$(TEST) -m slow

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/.installed  ## the manual as a site, in site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q --strict

clean:
	rm -rf .venv .venv-lmms build site *.egg-info
