"""The rows of summary.csv: one per tutor."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pedalign.data.rubric import Rubric
from pedalign.evaluation.statistics import holm
from pedalign.reporting.columns import Tutor, columns
from pedalign.training.health_checks import unlearned

Key = tuple[str, str]  # model, policy

CUT_OFF = 0.01  # a tutor is marked if a larger share of its replies ends at max_new_tokens
_SEED = re.compile(r"-s[0-9]+$")


def summary_rows(
    metrics: Mapping[Key, dict[str, Any]],
    comparisons: Mapping[Key, dict[str, Any]],
    perplexities: Mapping[Key, dict[str, Any]],
    manifests: Mapping[Key, dict[str, Any]],
    rubric: Rubric,
    data: str,
    marks: Mapping[Key, str],
    valid_format: float,
    settings: Mapping[Key, str] = {},
) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per tutor, then one per group of tutors that differ only in the training seed.

    `data`: what was tested on, in words. A group's row holds means over its seeds and their standard deviations (sd);
    its intervals and p-values are empty. Also empty are the comparison's columns of tutors that are not compared (the
    fine-tuned ones), and perplexities that were not computed. A comparison is tested if both tutors have a share of at
    least `valid_format` in valid format; else its p-values are empty. `marks`: what went wrong with a tutor.
    `settings`: what differs from the model's entry, in words, of the tutors where something does.
    """
    fields = [field.key for field in rubric.label_fields]
    tested = {key for key, comparison in comparisons.items() if is_tested(comparison, valid_format)}
    adjusted = _adjusted({key: comparisons[key] for key in comparisons if key in tested}, fields)
    tutors = {
        key: Tutor(
            metrics=measures,
            comparison=comparisons.get(key, {}),
            perplexity=perplexities.get(key, {}),
            manifest=manifests[key],
            data=data,
            marks=marks.get(key, ""),
            settings=settings.get(key, ""),
            tested=key in tested,
            p_holm=adjusted.get(key, {}),
        )
        for key, measures in metrics.items()
    }
    found = columns(fields)
    rows = [[*key, *(one.value(tutor) if one.alone else None for one in found)] for key, tutor in tutors.items()]
    for key, group in _groups(tutors).items():
        cells = (one.of_seeds([one.value(tutor) for tutor in group]) if one.of_seeds else None for one in found)
        rows.append([*key, *cells])
    header = ["model", "policy", *(one.name for one in found)]
    return header, [["" if cell is None else cell for cell in row] for row in rows]


def is_tested(comparison: Mapping[str, Any], valid_format: float) -> bool:
    """Whether a comparison.json is tested: both tutors have at least this share in valid format."""
    shares = comparison["valid_format"]
    return min(shares["reference"], shares["aligned"]) >= valid_format


def _adjusted(comparisons: Mapping[Key, Mapping[str, Any]], fields: Sequence[str]) -> dict[Key, dict[str, float]]:
    """Holm's p-values over the tested tutors, of the valid format and of each field on the replies valid in both."""
    found: dict[Key, dict[str, float]] = {key: {} for key in comparisons}
    for name in ("valid_format", *fields):
        parts = {
            key: one[name] if name == "valid_format" else one[name]["both_valid"] for key, one in comparisons.items()
        }
        p_values = {key: part["p_value"] for key, part in parts.items() if part["p_value"] is not None}
        for key, p in zip(p_values, holm(list(p_values.values())), strict=True):
            found[key][name if name == "valid_format" else f"{name}_both_valid"] = p
    return found


def tutor_marks(
    metrics: Mapping[Key, dict[str, Any]],
    manifests: Mapping[Key, dict[str, Any]],
    audits: Mapping[str, dict[str, Any]],
    rubric: Rubric,
    valid_format: float,
) -> dict[Key, str]:
    """What went wrong, for each tutor with a problem: in its training, replies that are cut off or can't be read,
    labels that are no better than always the most frequent one.

    `audits`: by model, of those that were fine-tuned here.
    """
    found = {}
    for key, measures in metrics.items():
        problems = unlearned(manifests[key].get("history", ()))  # a tutor trained elsewhere has none
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
    """A mark for replies that end at max_new_tokens, with the number to set: the length of the longest gold reply."""
    if ended["share"] <= CUT_OFF:
        return []
    limit, longest = ended["max_new_tokens"], audit.get("gold_replies", {}).get("longest", 0)
    problem = f"{ended['replies']:,} of {ended['of']:,} replies end at max_new_tokens {limit}"
    if longest > limit:
        problem += f", and the longest gold reply has {longest}: set generate: max_new_tokens to {longest} or more"
    return [problem]


def _no_better(field: str, measures: Mapping[str, Any], majority: float) -> list[str]:
    """A mark for labels that are not shown to be better than always the most frequent one.

    The interval decides: a tutor that always gives the most frequent label has exactly that label's share, so it is
    "not shown to be over" it, not "under" it.
    """
    accuracy, (low, high) = measures["accuracy"], measures["accuracy_ci95"]
    if low > majority:
        return []
    what = "under" if high < majority else "not shown to be over"
    return [f"{field} right in {accuracy:.1%}, {what} the commonest label's share of {majority:.1%}"]


def _groups(tutors: Mapping[Key, Tutor]) -> dict[Key, list[Tutor]]:
    """(model, policy without its seed) → the tutors of its seeds, if there are two or more."""
    members: dict[Key, list[Tutor]] = {}
    for (model, policy), tutor in tutors.items():
        members.setdefault((model, _SEED.sub("", policy)), []).append(tutor)
    return {(model, f"{policy} (mean)"): group for (model, policy), group in members.items() if len(group) > 1}
