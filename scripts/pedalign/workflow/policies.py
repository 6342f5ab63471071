"""The names of aligned tutors, and the tutors that the config's runs ask for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any

from pedalign.core.errors import UserError, nearest
from pedalign.core.section import read
from pedalign.workflow.config import Config, Run

BASE = "base"  # the policy of a model before any training
_POLICY = re.compile(r"(?P<algorithm>[a-z]+)-b(?P<beta>[0-9]+(?:\.[0-9]+)?)(?:-s(?P<seed>[0-9]+))?")


@dataclass(frozen=True)
class Policy:
    """The parts of an aligned tutor's name."""

    algorithm: str
    beta: float
    seed: int


def policy_name(algorithm: str, beta: float, seed: int, usual_seed: int) -> str:
    """`<algorithm>-b<beta>`, followed by `-s<seed>` if the seed is not the config's."""
    suffix = f"-s{seed}" if seed != usual_seed else ""
    return f"{algorithm}-b{format(Decimal(str(beta)).normalize(), 'f')}{suffix}"


def parse_policy(name: str, seed: int, place: str = "target") -> Policy:
    """The parts of a policy's name; without a seed it has `seed`, the config's. Raises UserError for a wrong name."""
    match = _POLICY.fullmatch(name)
    if not match:
        raise UserError(
            f"{place}: policy '{name}' is not known", "name it sft or <algorithm>-b<beta>, such as dpo-b0.1"
        )
    policy = Policy(match["algorithm"], float(match["beta"]), int(match["seed"] or seed))
    read(Run, {"model": "", **vars(policy)}, f"{place}: policy '{name}'")
    usual = policy_name(policy.algorithm, policy.beta, policy.seed, seed)
    if name != usual:  # else one tutor would be trained twice, in two folders
        raise UserError(f"{place}: policy '{name}' is written {usual}", f"write {usual}")
    return policy


def runs(config: Config) -> list[tuple[str, str]]:
    """(model, policy) of every aligned tutor that `all` builds, each once.

    Raises UserError if a model is not in the catalogue.
    """
    found: dict[tuple[str, str], None] = {}
    for number, run in enumerate(config.runs):
        if run.policy:
            continue
        for model, algorithm, beta, seed in _combinations(run, config.seed):
            if model not in config.models:
                raise unknown_model(model, config, f"runs[{number}]")
            found[model, policy_name(algorithm, beta, seed, config.seed)] = None
    return list(found)


def untrained(config: Config) -> list[str]:
    """The models that runs with `policy: base` measure before any training.

    Raises UserError if a model is not in the catalogue, or starts from random weights.
    """
    found: dict[str, None] = {}
    for number, run in enumerate(config.runs):
        for model in (run.model if isinstance(run.model, list) else [run.model]) if run.policy else []:
            if model not in config.models:
                raise unknown_model(model, config, f"runs[{number}]")
            if config.models[model].path is None:
                problem = f"config: runs[{number}].policy: is 'base', and {model} has no pretrained model"
                raise UserError(problem, "name a model that has 'path:'")
            found[model] = None
    return list(found)


def unknown_model(name: str, config: Config, place: str) -> UserError:
    return UserError(f"{place}: model '{name}' is not in the catalogue", nearest(name, config.models))


def _combinations(run: Run, seed: int) -> Iterator[tuple[Any, ...]]:
    """All combinations of the values in a run's lists."""
    values = (run.model, run.algorithm, run.beta, seed if run.seed is None else run.seed)
    yield from product(*(value if isinstance(value, list) else [value] for value in values))


def adopted(config: Config) -> dict[str, str]:
    """`<model>/<policy>` → folder or hub id, of the tutors that are not trained here: those that the config names as
    already trained, and pretrained models before any training."""
    found = {}
    for model, entry in config.models.items():
        if entry.path is not None:
            found[f"{model}/{BASE}"] = entry.path
        if isinstance(entry.sft, str):
            found[f"{model}/sft"] = entry.sft
        for policy, source in (entry.aligned or {}).items():
            parse_policy(policy, config.seed, f"config: models.{model}.aligned")
            found[f"{model}/{policy}"] = source
    return found
