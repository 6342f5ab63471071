"""All runs in one table: the rows of summary.csv."""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pedalign.history import unlearned
from pedalign.rubric import Rubric
from pedalign.statistics import holm

Key = tuple[str, str]  # model, policy

_MEASURED = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "majority")
_COMPARED = ("difference", "difference_low", "difference_high", "p_value", "p_holm")
_SPREAD = ("accuracy_sd", "difference_sd")
_PERPLEXITY = ("perplexity_scaffold", "perplexity_tell", "scaffold_likelier")
_PERPLEXITY_PAIRS = ("scaffold_likelier_low", "scaffold_likelier_high", "perplexity_pairs")
_SEED = re.compile(r"-s[0-9]+$")


def summary_rows(
    metrics: Mapping[Key, dict[str, Any]],
    comparisons: Mapping[Key, dict[str, Any]],
    perplexities: Mapping[Key, dict[str, Any]],
    rubric: Rubric,
    data: str,
    marks: Mapping[Key, str],
) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per tutor, then one per group of tutors that differ in the training seed alone.

    `data` says what was tested on. Shares are 0 to 1, differences too. A group's row holds means over its seeds, and
    their standard deviations (sd); its intervals and p-values are empty, as are the comparison's columns of tutors
    that are not compared (the fine-tuned ones) and those of the perplexity where it was not computed. `p_holm` is
    adjusted for the number of compared tutors. `marks` say what went wrong with a tutor.
    """
    fields = [field.key for field in rubric.label_fields]
    header = ["model", "policy", "seeds", "data", "conversations", "replies", "valid_format"]
    header += [f"{field}_{name}" for field in fields for name in (*_MEASURED, *_COMPARED, *_SPREAD)]
    header += [*_PERPLEXITY, *_PERPLEXITY_PAIRS, "marks"]
    adjusted = {
        field: dict(zip(comparisons, holm([one[field]["p_value"] for one in comparisons.values()]), strict=True))
        for field in fields
    }
    records: dict[Key, dict[str, Any]] = {}
    for key, measures in metrics.items():
        record = {"seeds": 1, "data": data, "valid_format": measures["valid_format"]}
        record |= {"conversations": measures["n_conversations"], "replies": measures["n_rows"]}
        for field in fields:
            one = measures[field]
            values = [one["accuracy"], *one["accuracy_ci95"], one["macro_f1"], measures["majority_baseline"][field]]
            record |= _named(field, _MEASURED, values)
            if key in comparisons:
                other = comparisons[key][field]
                values = [other["difference"], *other["difference_ci95"], other["p_value"], adjusted[field][key]]
                record |= _named(field, _COMPARED, values)
        if key in perplexities:
            record |= _perplexity(perplexities[key])
        records[key] = {**record, "marks": marks.get(key, "")}
    rows = [*records.items(), *_groups(records, fields).items()]
    return header, [[*key, *(record.get(name, "") for name in header[2:])] for key, record in rows]


def tutor_marks(
    metrics: Mapping[Key, dict[str, Any]], manifests: Mapping[Key, dict[str, Any]], valid_format: float
) -> dict[Key, str]:
    """What went wrong with a tutor, for those with which something did: in training, or replies that can't be read."""
    found = {}
    for key, measures in metrics.items():
        problems = unlearned(manifests[key].get("history", ()))  # none of a tutor that was trained elsewhere
        if measures["valid_format"] < valid_format:
            problems.append(f"{measures['valid_format']:.1%} of its replies are in valid format")
        if problems:
            found[key] = "; ".join(problems)
    return found


def _perplexity(report: dict[str, Any]) -> dict[str, Any]:
    """Of the scaffolding and of the telling replies, and the share of pairs with scaffolding likelier per token."""
    scaffold, tell = (group["perplexity"] for group in report["groups"].values())
    likelier = report["scaffold_likelier"]["per_token"]
    values = [scaffold, tell, likelier["share"], *likelier["share_ci95"], report["pairs"]]
    return dict(zip((*_PERPLEXITY, *_PERPLEXITY_PAIRS), values, strict=True))


def _named(field: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return {f"{field}_{name}": value for name, value in zip(names, values, strict=True)}


def _groups(records: Mapping[Key, dict[str, Any]], fields: Sequence[str]) -> dict[Key, dict[str, Any]]:
    """(model, policy without its seed) → means and standard deviations, where there are two seeds or more."""
    members: dict[Key, list[dict[str, Any]]] = {}
    for (model, policy), record in records.items():
        members.setdefault((model, _SEED.sub("", policy)), []).append(record)
    groups = {}
    for (model, policy), group in members.items():
        if len(group) < 2:
            continue

        def over(name: str, how: Callable, group: list[dict[str, Any]] = group) -> float:
            return round(how([record[name] for record in group]), 6)

        record = {name: group[0][name] for name in ("data", "conversations", "replies")}
        record |= {"seeds": len(group), "valid_format": over("valid_format", statistics.mean)}
        for field in fields:
            for name in ("accuracy", "macro_f1", "majority", "difference"):
                record[f"{field}_{name}"] = over(f"{field}_{name}", statistics.mean)
            for name in ("accuracy", "difference"):
                record[f"{field}_{name}_sd"] = over(f"{field}_{name}", statistics.stdev)
        if _PERPLEXITY[0] in group[0]:
            record |= {name: over(name, statistics.mean) for name in _PERPLEXITY}
            record["perplexity_pairs"] = group[0]["perplexity_pairs"]
        groups[model, f"{policy} (mean)"] = record
    return groups
