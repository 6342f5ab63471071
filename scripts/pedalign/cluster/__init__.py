"""Launching jobs, GPUs, Slurm, and checks before a run."""
