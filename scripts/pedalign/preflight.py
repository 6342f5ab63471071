"""What would fail, told before anything starts: what the config's runs need against what there is.

Each check is one finding. Nothing is loaded and no job is submitted; of the net, only the hub is asked, about models that
are not on this machine.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from pedalign import estimates, partitions
from pedalign.errors import UserError
from pedalign.estimates import GB, Memory, Size
from pedalign.leases import visible_devices
from pedalign.models import load_tokenizer
from pedalign.processes import accumulation
from pedalign.resources import check_machine
from pedalign.rubric import Rubric
from pedalign.table import aligned
from pedalign.template import instruction_text, load_template, renderer

HUB_TIMEOUT = 5.0  # seconds
_STAGES = {"sft": "fine-tuning", "alignment": "alignment", "generation": "generation"}
_MESSAGES = [{"role": "user", "content": "Q."}, {"role": "assistant", "content": "A."}, {"role": "user", "content": "?"}]


@dataclass(frozen=True)
class PreflightSettings:
    """`models`: their entries in config.yaml; `runs`: (model, policy) that are wanted; `jobs`: model → stage → what a job
    of it asks for; `data_job`: what a job without a model asks for; `status_command`: of Slurm, where jobs go there;
    `here`: whether jobs run on this machine."""

    results: str
    here: bool
    status_command: str | None
    models: dict[str, dict[str, Any]]
    runs: list[tuple[str, str]]
    jobs: dict[str, dict[str, dict[str, Any]]]
    data_job: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """`status` is ok, unknown, warning or problem; only a problem means that a job will fail."""

    status: str
    about: str
    words: str
    remedy: str = ""


@dataclass
class Report:
    findings: list[Finding] = field(default_factory=list)

    def add(self, status: str, about: str, words: str, remedy: str = "") -> None:
        self.findings.append(Finding(status, about, words, remedy))

    @contextmanager
    def problems(self, about: str) -> Iterator[None]:
        """A user's mistake that the block raises is a problem."""
        try:
            yield
        except UserError as error:
            self.add("problem", about, error.problem, error.remedy)
