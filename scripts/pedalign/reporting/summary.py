"""The rows of summary.csv: one per tutor."""

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pedalign.data.rubric import Rubric
from pedalign.evaluation.statistics import holm
from pedalign.training.health_checks import unlearned

Key = tuple[str, str]  # model, policy

_MEASURED = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "majority")
_COMPARED = ("difference", "difference_low", "difference_high", "p_value")
_BOTH_VALID = ("reference", "aligned", "difference", "difference_low", "difference_high", "p_value", "p_holm")
_SPREAD = ("accuracy_sd", "difference_sd", "both_valid_difference_sd")
CUT_OFF = 0.01  # share of replies that end at max_new_tokens, above which a tutor is marked
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
    valid_format: float,
) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per tutor, then one per group of tutors that differ in the training seed alone.

    `data` says what was tested on. Shares are 0 to 1, differences too: `<field>_difference` is over all replies,
    `<field>_both_valid_difference` over those that are in valid format in both tutors. A group's row holds means over
    its seeds, and their standard deviations (sd); its intervals and p-values are empty, as are the comparison's columns
    of tutors that are not compared (the fine-tuned ones) and those of the perplexity where it was not computed.
    A comparison is tested where both tutors have a share of `valid_format` or more in valid format; else its p-values
    are empty. `p_holm` is adjusted for the number of tested tutors. `marks` say what went wrong with a tutor.
    """
    fields = [field.key for field in rubric.label_fields]
    header = ["model", "policy", "seeds", "data", "conversations", "replies", "valid_format"]
    header += [f"valid_format_{name}" for name in ("reference", *_BOTH_VALID[2:], "difference_sd")]
    header += ["both_valid_conversations", "both_valid_replies", "ended_at_max_new_tokens"]
    for field in fields:
        header += [f"{field}_{name}" for name in (*_MEASURED, *_COMPARED)]
        header += [f"{field}_both_valid_{name}" for name in _BOTH_VALID] + [f"{field}_{name}" for name in _SPREAD]
    header += [*_PERPLEXITY, *_PERPLEXITY_PAIRS, "marks"]
    headlines = {key: _headlines(comparison, fields, valid_format) for key, comparison in comparisons.items()}
    _adjust(list(headlines.values()))
    records: dict[Key, dict[str, Any]] = {}
    for key, measures in metrics.items():
        record = {"seeds": 1, "data": data, "valid_format": measures["valid_format"]}
        record |= {"conversations": measures["n_conversations"], "replies": measures["n_rows"]}
        record["ended_at_max_new_tokens"] = measures["ended_at_max_new_tokens"]["replies"]
        for field in fields:
            one = measures[field]
            values = [one["accuracy"], *one["accuracy_ci95"], one["macro_f1"], measures["majority_baseline"][field]]
            record |= _named(field, _MEASURED, values)
            if key in comparisons:
                other = comparisons[key][field]
                values = [other["difference"], *other["difference_ci95"]]
                values.append(other["p_value"] if is_tested(comparisons[key], valid_format) else "")
                record |= _named(field, _COMPARED, values)
        if key in comparisons:
            both = comparisons[key]["both_valid"]
            record |= {"both_valid_conversations": both["n_conversations"], "both_valid_replies": both["n_rows"]}
            for name, headline in headlines[key].items():
                record |= _named(name, headline.keys(), headline.values())
        if key in perplexities:
            record |= _perplexity(perplexities[key])
        records[key] = {**record, "marks": marks.get(key, "")}
    rows = [*records.items(), *_groups(records, fields).items()]
    return header, [[*key, *(record.get(name, "") for name in header[2:])] for key, record in rows]


def is_tested(comparison: Mapping[str, Any], valid_format: float) -> bool:
    """Whether a comparison.json is told with intervals and p-values: both tutors have that share in valid format."""
    shares = comparison["valid_format"]
    return min(shares["reference"], shares["aligned"]) >= valid_format


def _headlines(comparison: Mapping[str, Any], fields: Sequence[str], valid_format: float) -> dict[str, dict[str, Any]]:
    """What is told of a comparison: of each field on the replies valid in both, and of the valid format itself."""
    told = {f"{field}_both_valid": comparison[field]["both_valid"] for field in fields}
    told["valid_format"] = comparison["valid_format"]
    found = {}
    for name, one in told.items():
        low, high = one["difference_ci95"] or (None, None)
        values = [one["reference"], one["aligned"], one["difference"], low, high]
        values.append(one["p_value"] if is_tested(comparison, valid_format) else None)
        found[name] = dict(zip(_BOTH_VALID, ["" if value is None else value for value in (*values, None)], strict=True))
    return found


def _adjust(headlines: Sequence[dict[str, dict[str, Any]]]) -> None:
    """Fill in `p_holm`, for each name over the comparisons that have a p-value."""
    for name in headlines[0] if headlines else ():
        tested = [one[name] for one in headlines if one[name]["p_value"] != ""]
        for one, adjusted in zip(tested, holm([one["p_value"] for one in tested]), strict=True):
            one["p_holm"] = adjusted


def tutor_marks(
    metrics: Mapping[Key, dict[str, Any]],
    manifests: Mapping[Key, dict[str, Any]],
    audits: Mapping[str, dict[str, Any]],
    rubric: Rubric,
    valid_format: float,
) -> dict[Key, str]:
    """What went wrong with a tutor, for those with which something did: in training, replies that are cut off or can't
    be read, labels that are no better than always the commonest one.

    `audits`: by model, of those that were fine-tuned here.
    """
    found = {}
    for key, measures in metrics.items():
        problems = unlearned(manifests[key].get("history", ()))  # none of a tutor that was trained elsewhere
        problems += _cut_off(measures["ended_at_max_new_tokens"], audits.get(key[0], {}))
        if measures["valid_format"] < valid_format:
            problems.append(
                f"{measures['valid_format']:.1%} of its replies are in valid format, under {100 * valid_format:g}% "
                "(checks: valid_format), so no difference of its labels is tested"
            )
        problems += [
            problem
            for field in rubric.label_fields
            for problem in _no_better(field.key, measures[field.key], measures["majority_baseline"][field.key])
        ]
        if problems:
            found[key] = "; ".join(problems)
    return found


def _cut_off(ended: Mapping[str, Any], audit: Mapping[str, Any]) -> list[str]:
    """Replies that end at max_new_tokens, and the number to set: what the longest gold reply needs."""
    if ended["share"] <= CUT_OFF:
        return []
    limit, longest = ended["max_new_tokens"], audit.get("gold_replies", {}).get("longest", 0)
    problem = f"{ended['replies']:,} of {ended['of']:,} replies end at max_new_tokens {limit}"
    if longest > limit:
        problem += f", and the longest gold reply has {longest}: set generate: max_new_tokens to {longest} or more"
    return [problem]


def _no_better(field: str, measures: Mapping[str, Any], majority: float) -> list[str]:
    """The interval decides: a tutor that always gives the commonest label is on its share, not under it."""
    accuracy, (low, high) = measures["accuracy"], measures["accuracy_ci95"]
    if low > majority:
        return []
    what = "under" if high < majority else "not shown to be over"
    return [f"{field} right in {accuracy:.1%}, {what} the commonest label's share of {majority:.1%}"]


def _perplexity(report: dict[str, Any]) -> dict[str, Any]:
    """Of the scaffolding and of the telling replies, and the share of pairs with scaffolding likelier per token."""
    scaffold, tell = (group["perplexity"] for group in report["groups"].values())
    likelier = report["scaffold_likelier"]["per_token"]
    values = [scaffold, tell, likelier["share"], *likelier["share_ci95"], report["pairs"]]
    return dict(zip((*_PERPLEXITY, *_PERPLEXITY_PAIRS), values, strict=True))


def _named(field: str, names: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
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
        differences = [f"{field}_{name}" for field in fields for name in ("difference", "both_valid_difference")]
        tested = all(one["valid_format_p_value"] != "" for one in group)
        for name in ("valid_format_difference", *differences):
            if all(one[name] != "" for one in group):
                record[name] = over(name, statistics.mean)
                record[f"{name}_sd"] = over(name, statistics.stdev) if tested else ""
        for field in fields:
            for name in ("accuracy", "macro_f1", "majority"):
                record[f"{field}_{name}"] = over(f"{field}_{name}", statistics.mean)
            record[f"{field}_accuracy_sd"] = over(f"{field}_accuracy", statistics.stdev)
        if _PERPLEXITY[0] in group[0]:
            record |= {name: over(name, statistics.mean) for name in _PERPLEXITY}
            record["perplexity_pairs"] = group[0]["perplexity_pairs"]
        groups[model, f"{policy} (mean)"] = record
    return groups
