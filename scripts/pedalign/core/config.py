"""The configuration: checked against its schema, and the questions that rules ask of it."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from pedalign.core.artifacts import read_json
from pedalign.core.errors import UserError, nearest
from pedalign.core.schema import check, read_schema

SCHEMA = Path(__file__).parents[3] / "rules" / "config.schema.yaml"

_POLICY = re.compile(r"(?P<algorithm>[a-z]+)-b(?P<beta>[0-9]+(?:\.[0-9]+)?)(?:-s(?P<seed>[0-9]+))?")


def complete(config: dict[str, Any], defaults: Path) -> None:
    """Puts the workflow's own settings into `config` where it has none: those of the file `defaults`."""
    given = dict(config)
    config.clear()
    update_config(config, load_configfile(defaults))
    update_config(config, given)


def validate(config: dict[str, Any]) -> None:
    """Raises UserError with the first mistake: its key and place, what was found, what would be right."""
    try:
        many = _values(config, {}) > _MOST_VALUES
    except RecursionError:
        raise UserError("config: nested too deeply", "take out the needless brackets or dashes") from None
    if many:
        remedy = "give runs lists of values (`beta: [0.1, 0.2]`); YAML's aliases count as often as they stand there"
        raise UserError(f"config: more than {_MOST_VALUES} values", remedy)
    check(config, SCHEMA, "config", "see the comments in config.yaml", _TEXT_HINT)
    if config["paper_rules"] and config["splits"]["method"] != "random":
        raise UserError("config: splits.method: paper_rules draw at random", "set one of the two back")
    combinations = sum(math.prod(map(len, _run_values(run, config))) for run in config["runs"])
    if combinations > _MOST_RUNS:
        raise UserError(
            f"config: runs: {combinations} combinations, of {_MOST_RUNS} at most", "list fewer values in them"
        )
    for number, run in enumerate(config["runs"]):
        for model in _listed(run["model"]):
            if model not in config["models"]:
                raise _unknown_model(model, config, f"runs[{number}]")
            answering_settings(config, model, "dpo")


_RUN = ("model", "algorithm", "beta", "seed")
_MOST_RUNS = 10_000
# Snakemake's --config reads values within braces or brackets as text, and `true`.
_TEXT_HINT = "; to --config give True or False with a capital, and what is nested in a file: --configfile FILE"
_MOST_VALUES = 10_000  # a thousand take some 40 ms


def _values(tree: Any, known: dict[int, int]) -> int:
    """How many values a tree has, each as often as it is reached: aliases are one object in several places. A long text
    is as many as it has twenties of characters."""
    if not isinstance(tree, dict | list):
        return 1 + len(tree) // 20 if isinstance(tree, str) else 1
    if id(tree) not in known:
        known[id(tree)] = _MOST_VALUES  # for one that holds itself
        members = tree.values() if isinstance(tree, dict) else tree
        known[id(tree)] = 1 + sum(_values(member, known) for member in members)
    return known[id(tree)]


def algorithms() -> list[str]:
    """The alignment algorithms that a run may name."""
    return read_schema(SCHEMA)["$defs"]["algorithm"]["enum"]


def _unknown_model(name: str, config: dict[str, Any], place: str) -> UserError:
    return UserError(f"{place}: model '{name}' is not in the catalogue", nearest(name, config["models"]))


def model_entry(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A model's entry. Raises UserError with the nearest name where the catalogue has none of this name."""
    if name not in config["models"]:
        raise _unknown_model(name, config, "target")
    return config["models"][name]


def answering_settings(config: dict[str, Any], model: str, split: str) -> dict[str, Any]:
    """How a model answers a split: several times per prompt where mistakes are looked for, once where it is measured.

    Raises UserError where several answers would be the same.
    """
    generation, samples = {**model_entry(config, model)["generation"], "seed": config["seed"]}, 1
    del generation["shards"]  # the replies do not depend on it
    if split == "dpo":
        samples, temperature = (config["preferences"][name] for name in ("samples", "temperature"))
        if temperature is not None:
            generation["temperature"] = temperature
    if samples > 1 and generation["temperature"] == 0:
        raise UserError(
            f"config: preferences.samples: is {samples}, but {model} gives the likeliest reply each time",
            "set preferences.temperature, for example to 1.0, or samples to 1",
        )
    return {"generation": generation, "samples": samples}


@dataclass(frozen=True)
class Policy:
    """An aligned tutor: what its name says."""

    algorithm: str
    beta: float
    seed: int


def policy_name(run: dict[str, Any], seed: int) -> str:
    """`<algorithm>-b<beta>`, with `-s<seed>` behind it where the run's seed is not the config's."""
    suffix = f"-s{run['seed']}" if run.get("seed", seed) != seed else ""
    beta = format(Decimal(str(run["beta"])).normalize(), "f")
    return f"{run['algorithm']}-b{beta}{suffix}"


def parse_policy(name: str, seed: int) -> Policy:
    """What a policy's name says; `seed` is the config's. Raises UserError for a name of another form."""
    match = _POLICY.fullmatch(name)
    if not match or float(match["beta"]) <= 0:
        raise UserError(f"target: policy '{name}' is not known", "name it sft or <algorithm>-b<beta>, such as dpo-b0.1")
    if match["algorithm"] not in algorithms():
        raise UserError(
            f"target: algorithm '{match['algorithm']}' of policy '{name}' is not known",
            nearest(match["algorithm"], algorithms()),
        )
    return Policy(match["algorithm"], float(match["beta"]), int(match["seed"] or seed))


def runs(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(model, policy) of everything that `all` builds, each once: a run's lists stand for all their combinations."""
    found: dict[tuple[str, str], None] = {}
    for run in config["runs"]:
        for model, *rest in product(*_run_values(run, config)):
            found[model, policy_name(dict(zip(_RUN[1:], rest, strict=True)), config["seed"])] = None
    yield from found


def _run_values(run: dict[str, Any], config: dict[str, Any]) -> list[list[Any]]:
    return [_listed(run.get(name, config["seed"])) for name in _RUN]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def cut_length(entry: dict[str, Any], audit: Path) -> int | None:
    """Where a model's SFT conversations are cut off, by the audit of them; None where none is.

    So another `max_length` that cuts nothing is no other training. Before the audit is there, all may be cut: Snakemake
    asks again once it is.
    """
    if not entry["allow_truncation"]:  # then the audit lets nothing pass that would be cut
        return None
    try:
        longest = read_json(audit)["tokens"]["max"]
    except (UserError, KeyError, TypeError):
        return entry["max_length"]
    return entry["max_length"] if longest > entry["max_length"] else None


def adopted(config: dict[str, Any]) -> dict[str, str]:
    """`<model>/<policy>` → folder or hub id, of the tutors that config.yaml gives in place of training them."""
    found = {}
    for model, entry in config["models"].items():
        if isinstance(entry["sft"], str):
            found[f"{model}/sft"] = entry["sft"]
        for policy, source in entry.get("aligned", {}).items():
            parse_policy(policy, config["seed"])
            found[f"{model}/{policy}"] = source
    return found


def settings(**values: Any) -> str:
    """A rule's one parameter: a JSON object with sorted keys, so that equal settings are equal texts."""
    return json.dumps(values, sort_keys=True)
