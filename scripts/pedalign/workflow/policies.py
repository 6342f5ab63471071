"""The names of aligned tutors, and the tutors that the config's runs ask for."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any

from pedalign.core.errors import UserError, nearest
from pedalign.core.section import read
from pedalign.training.algorithms import ALGORITHMS
from pedalign.training.trainer_arguments import check_trainer
from pedalign.workflow.config import Config, Run
from pedalign.workflow.model_settings import Model

BASE = "base"  # the policy of a model before any training
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?"
# What a name has for a setting that is not the entry's: the setting, its letters, its value as a regular expression.
_PARTS = (
    ("epochs", "e", _NUMBER),
    ("learning_rate", "lr", _NUMBER),
    ("scheduler", "sch_", "[a-z_]+"),
    ("warmup", "w", _NUMBER),
    ("weight_decay", "wd", _NUMBER),
    ("global_batch_size", "gb", _NUMBER),
    ("device_batch_size", "db", _NUMBER),
    ("gradient_checkpointing", "gc", "[01]"),
    ("sft_weight", "sft", _NUMBER),
    ("adapter.rank", "ar", _NUMBER),
    ("adapter.alpha", "aa", _NUMBER),
    ("adapter.dropout", "ad", _NUMBER),
    ("adapter.four_bit", "aq", "[01]"),
)
_POLICY = re.compile(
    r"(?P<algorithm>[a-z][a-z0-9_]*)-b(?P<beta>[0-9]+(?:\.[0-9]+)?)"
    + "".join(f"(?:-{mark}(?P<{name.replace('.', '_')}>{value}))?" for name, mark, value in _PARTS)
    + r"(?:-x(?P<hashed>[0-9a-f]{6}))?(?:-s(?P<seed>[0-9]+))?"
)
_FORM = "name it sft or <algorithm>-b<beta>, such as dpo-b0.1; what else differs follows (docs/how-to/sweep.md)"

Settings = tuple[
    tuple[str, Any], ...
]  # such as ("learning_rate", 1e-06), ("adapter.rank", 8), ("trainer.optim", "sgd")


@dataclass(frozen=True)
class Policy:
    """The parts of an aligned tutor's name; `settings`: those of its alignment that are not the model's entry's."""

    algorithm: str
    beta: float
    seed: int
    settings: Settings = ()

    def name(self, usual_seed: int) -> str:
        """`<algorithm>-b<beta>`, followed by the settings and, if the seed is not the config's, by `-s<seed>`.

        Settings that a name cannot hold (arguments of the trainer, layers of an adapter) are six digits of their hash.
        """
        given = dict(self.settings)
        parts = [f"-{mark}{_as_text(given.pop(name))}" for name, mark, _ in _PARTS if name in given]
        if given:
            text = json.dumps(_plain(given), sort_keys=True)
            parts.append(f"-x{hashlib.sha256(text.encode()).hexdigest()[:6]}")
        seed = f"-s{self.seed}" if self.seed != usual_seed else ""
        return f"{self.algorithm}-b{format(Decimal(str(self.beta)).normalize(), 'f')}{''.join(parts)}{seed}"

    def in_words(self) -> str:
        return "; ".join(
            f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in self.settings
        )


def _as_text(value: Any) -> str:
    if isinstance(value, bool | str):
        return value if isinstance(value, str) else str(int(value))
    return repr(float(value)).removesuffix(".0").replace("e+", "e")


def _plain(value: Any) -> Any:
    """A value in which 1.0 is 1, as equal settings have one name."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _of_text(name: str, text: str) -> Any:
    """A setting's value, by the text in a name."""
    if name == "scheduler":
        return text
    if name in ("gradient_checkpointing", "adapter.four_bit"):
        return text == "1"
    return int(text) if text.isdecimal() else float(text)


def parse_policy(name: str, seed: int, place: str = "target", entry: Model | None = None) -> Policy:
    """The parts of a policy's name; without a seed it has `seed`, the config's.

    Raises UserError for a wrong name, and for one that repeats a setting of the model's `entry`, if it is given.
    """
    place = f"{place}: policy '{name}'"
    match = _POLICY.fullmatch(name)
    if not match:
        raise UserError(f"{place} is not known", _FORM)
    if match["hashed"]:
        raise UserError(
            f"{place} has settings that its name does not hold, and no run gives them",
            "add a run with its 'trainer' or 'adapter: {targets: ...}' to 'runs' in config.yaml",
        )
    texts = {one: match[one.replace(".", "_")] for one, _, _ in _PARTS}
    settings = tuple((one, _of_text(one, text)) for one, text in texts.items() if text is not None)
    policy = Policy(match["algorithm"], float(match["beta"]), int(match["seed"] or seed), settings)
    of_name = {"model": "", "algorithm": policy.algorithm, "beta": policy.beta, "seed": policy.seed}
    read(Run, {**of_name, **_nested(settings)}, place)
    _check_weight(policy, place)
    differing = policy if entry is None else _differing(policy, entry)
    usual = differing.name(seed)
    if name != usual:  # else one tutor would be trained twice, in two folders
        raise UserError(f"{place} is written {usual}", f"write {usual}")
    return policy


def aligned_entry(entry: Model, policy: Policy, place: str) -> Model:
    """The model's entry, with the settings of the policy's alignment. Raises UserError if they do not fit together."""
    given = _nested(policy.settings)
    if given:
        values = entry.values()
        if values["align"] is None:
            raise UserError(f"{place}: the model's entry has no 'align'", "add it to the entry in config.yaml")
        for name in ("adapter", "trainer"):
            under = values["adapter"] if name == "adapter" else values["align"].get("trainer")
            if name in given:
                given[name] = {**(under or {}), **given[name]}
        adapter = given.pop("adapter", values["adapter"])
        entry = read(Model, {**values, "align": {**values["align"], **given}, "adapter": adapter}, place)
    if entry.align is not None:
        trainer = ALGORITHMS[policy.algorithm].trainer
        check_trainer(trainer, entry.align.trainer or {}, f"{place}: align.trainer", policy.algorithm)
    return entry


def runs(config: Config) -> dict[tuple[str, str], Policy]:
    """(model, name of the policy) of everything that `all` builds, each once, and the policies.

    Raises UserError if a model is not in the catalogue, or two policies would have one name.
    """
    found: dict[tuple[str, str], Policy] = {}
    for number, run in enumerate(config.runs):
        if run.policy:
            continue
        place = f"config: runs[{number}]"
        for model, policy in _combinations(run, config.seed, place):
            if model not in config.models:
                raise unknown_model(model, config, f"runs[{number}]")
            _check_weight(policy, place)
            arguments = _nested(policy.settings).get("trainer", {})
            check_trainer(ALGORITHMS[policy.algorithm].trainer, arguments, f"{place}.trainer", policy.algorithm)
            policy = _differing(policy, config.models[model])
            name = policy.name(config.seed)
            if found.setdefault((model, name), policy) != policy:
                raise UserError(f"{place}: two policies of {model} would be called {name}", "change a value of one")
    return found


def untrained(config: Config) -> list[str]:
    """The models that runs with `policy: base` measure before any training.

    Raises UserError if a model is not in the catalogue, or starts from random weights.
    """
    found: dict[str, None] = {}
    for number, run in enumerate(config.runs):
        for model in _listed(run.model) if run.policy else []:
            if model not in config.models:
                raise unknown_model(model, config, f"runs[{number}]")
            if config.models[model].path is None:
                problem = f"config: runs[{number}].policy: is 'base', and {model} has no pretrained model"
                raise UserError(problem, "name a model that has 'path:'")
            found[model] = None
    return list(found)


def unknown_model(name: str, config: Config, place: str) -> UserError:
    return UserError(f"{place}: model '{name}' is not in the catalogue", nearest(name, config.models))


def _combinations(run: Run, seed: int, place: str) -> Iterator[tuple[str, Policy]]:
    """All combinations of the values in a run's lists."""
    given = {name: value for name, value in run.values(exclude_unset=True).items() if name not in _OF_NAME}
    names, lists = [], []
    for name, value in _flat(given):
        if value == []:
            raise UserError(f"{place}.{name}: is []", "list at least 1 value")
        names.append(name)
        of_targets = name == "adapter.targets"  # one value may be a list, whose order does not matter
        whole = of_targets and not (isinstance(value, list) and isinstance(value[0], list))
        values = [value] if whole else _listed(value)
        lists.append([sorted(one) if of_targets and isinstance(one, list) else one for one in values])
    usual = seed if run.seed is None else run.seed
    of_name = map(_listed, (run.model, run.algorithm, run.beta, usual))
    for model, algorithm, beta, at_random, *values in product(*of_name, *lists):
        yield model, Policy(algorithm, beta, at_random, tuple(zip(names, values, strict=True)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


_OF_NAME = ("model", "policy", "algorithm", "beta", "seed")


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; of a mapping's, such as adapter.rank."""
    for name, value in values.items():
        if not before and name in ("adapter", "trainer"):
            yield from _flat(value, f"{name}.")
        else:
            yield before + name, value


def _nested(settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings:
        place, _, last = name.rpartition(".")
        (found.setdefault(place, {}) if place else found)[last] = value
    return found


def _differing(policy: Policy, entry: Model) -> Policy:
    """The policy without settings that are the entry's, in the order of names."""
    align = {"sft_weight": 1.0, **(entry.align.values() if entry.align else {})}
    usual = dict(_flat({**align, "adapter": entry.adapter.values() if entry.adapter else {}}))
    order = [name for name, _, _ in _PARTS]
    differing = [
        (name, value) for name, value in policy.settings if name not in usual or not _same(name, usual[name], value)
    ]
    ordered = sorted(differing, key=lambda one: (order.index(one[0]) if one[0] in order else len(order), one[0]))
    return Policy(policy.algorithm, policy.beta, policy.seed, tuple(ordered))


def _same(name: str, one: Any, other: Any) -> bool:
    """Whether two values are one. The order of an adapter's targets does not matter."""
    if name == "adapter.targets":
        one, other = (sorted(value) if isinstance(value, list) else value for value in (one, other))
    return bool(one == other)


def _check_weight(policy: Policy, place: str) -> None:
    if "sft_weight" in dict(policy.settings) and not ALGORITHMS[policy.algorithm].uses_sft_weight:
        others = ", ".join(name for name, one in ALGORITHMS.items() if one.uses_sft_weight)
        raise UserError(
            f"{place}: sft_weight: the loss of {policy.algorithm} has no fine-tuning term",
            f"algorithms that have: {others}",
        )


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
            parse_policy(policy, config.seed, f"config: models.{model}.aligned", entry)
            found[f"{model}/{policy}"] = source
    return found
