"""Registry of the columns of summary.csv: COLUMNS of a tutor, FIELD_COLUMNS of each label field, LAST_COLUMNS.

A column has a function that turns what is known of a tutor into its cell; None leaves the cell empty. Shares are 0 to
1; their differences are not in percent either. `<field>_difference` is over all replies,
`<field>_both_valid_difference` over those that are in valid format in both tutors. `p_holm` is adjusted for the number
of tested tutors.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pedalign.evaluation.label_metrics import METRICS


@dataclass(frozen=True)
class Change:
    """The change of a share from the fine-tuned tutor to the aligned one; None: not known or not reported."""

    reference: float | None
    aligned: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    tested: bool

    @property
    def tested_difference(self) -> float | None:
        return self.difference if self.tested else None


@dataclass(frozen=True)
class Tutor:
    """What is known of a tutor: metrics.json, comparison.json (empty if it is not compared), perplexity.json (empty if
    there is none), and its manifest, checkpoint.json.

    `data`: what it was tested on, in words. `marks`: what went wrong with it. `settings`: what differs from the model's
    entry, in words. `tested`: whether its comparison has
    p-values. `p_holm`: adjusted p-values, of "valid_format" and of each "<field>_both_valid".
    """

    metrics: Mapping[str, Any]
    comparison: Mapping[str, Any]
    perplexity: Mapping[str, Any]
    manifest: Mapping[str, Any]
    data: str
    marks: str
    settings: str
    tested: bool
    p_holm: Mapping[str, float]

    @property
    def valid_format(self) -> Change:
        return self.change("valid_format", self.comparison.get("valid_format", {}))

    def change(self, name: str, part: Mapping[str, Any]) -> Change:
        """The change that a part of comparison.json holds; `name`: of its adjusted p-value."""
        low, high = part.get("difference_ci95") or (None, None)
        return Change(
            reference=part.get("reference"),
            aligned=part.get("aligned"),
            difference=part.get("difference"),
            low=low,
            high=high,
            p_value=part.get("p_value") if self.tested else None,
            p_holm=self.p_holm.get(name),
            tested=self.tested,
        )


@dataclass(frozen=True)
class Labels:
    """A tutor's labels of one field (its key)."""

    tutor: Tutor
    field: str

    @property
    def measured(self) -> Mapping[str, Any]:
        """The field's part of metrics.json."""
        return self.tutor.metrics[self.field]

    @property
    def over_all(self) -> Change:
        """Over all replies."""
        return self.tutor.change(self.field, self.tutor.comparison.get(self.field, {}))

    @property
    def both_valid(self) -> Change:
        """Over the replies that are in valid format in both tutors."""
        part = self.tutor.comparison.get(self.field, {}).get("both_valid", {})
        return self.tutor.change(f"{self.field}_both_valid", part)


@dataclass(frozen=True)
class Column:
    """`value`: the cell of a Tutor, or of its Labels. `of_seeds`: the cell of a group of tutors that differ only in the
    training seed, from their values; None leaves it empty. `alone`: whether a single tutor has the cell, too."""

    name: str
    value: Callable[[Any], Any]
    of_seeds: Callable[[Sequence[Any]], Any] | None = None
    alone: bool = True


def first(values: Sequence[Any]) -> Any:
    return values[0]


def mean(values: Sequence[Any]) -> float | None:
    return None if None in values else round(statistics.mean(values), 6)


def deviation(values: Sequence[Any]) -> float | None:
    """The standard deviation of one seed (not that of the mean)."""
    return None if None in values else round(statistics.stdev(values), 6)


def _perplexity(at: int) -> Callable[[Tutor], float | None]:
    """Perplexity of the scaffolding replies (0) or the telling ones (1)."""

    def value(tutor: Tutor) -> float | None:
        groups = list(tutor.perplexity.get("groups", {}).values())
        return groups[at]["perplexity"] if groups else None

    return value


def _likelier(tutor: Tutor, key: str, at: int | None = None) -> float | None:
    """Share of pairs with scaffolding more likely per token: the value of `key`, or the end `at` of its interval."""
    if not tutor.perplexity:
        return None
    found = tutor.perplexity["scaffold_likelier"]["per_token"][key]
    return found if at is None else found[at]


def _metric_columns(name: str) -> list[Column]:
    """Columns of a further metric, with the ends of its interval."""
    return [
        Column(name, lambda labels: labels.measured[name], mean),
        Column(f"{name}_low", lambda labels: labels.measured[f"{name}_ci95"][0]),
        Column(f"{name}_high", lambda labels: labels.measured[f"{name}_ci95"][1]),
    ]


COLUMNS: tuple[Column, ...] = (
    Column("seeds", lambda tutor: 1, sum),
    Column("settings", lambda tutor: tutor.settings, first),
    Column("data", lambda tutor: tutor.data, first),
    Column("conversations", lambda tutor: tutor.metrics["n_conversations"], first),
    Column("replies", lambda tutor: tutor.metrics["n_rows"], first),
    Column("valid_format", lambda tutor: tutor.metrics["valid_format"], mean),
    Column("valid_format_reference", lambda tutor: tutor.valid_format.reference),
    Column("valid_format_difference", lambda tutor: tutor.valid_format.difference, mean),
    Column("valid_format_difference_low", lambda tutor: tutor.valid_format.low),
    Column("valid_format_difference_high", lambda tutor: tutor.valid_format.high),
    Column("valid_format_p_value", lambda tutor: tutor.valid_format.p_value),
    Column("valid_format_p_holm", lambda tutor: tutor.valid_format.p_holm),
    Column("valid_format_difference_sd", lambda tutor: tutor.valid_format.tested_difference, deviation, alone=False),
    Column("both_valid_conversations", lambda tutor: tutor.comparison.get("both_valid", {}).get("n_conversations")),
    Column("both_valid_replies", lambda tutor: tutor.comparison.get("both_valid", {}).get("n_rows")),
    Column("ended_at_max_new_tokens", lambda tutor: tutor.metrics["ended_at_max_new_tokens"]["replies"]),
)

# Of each label field, whose key is put before the name: action_accuracy.
FIELD_COLUMNS: tuple[Column, ...] = (
    Column("accuracy", lambda labels: labels.measured["accuracy"], mean),
    Column("accuracy_low", lambda labels: labels.measured["accuracy_ci95"][0]),
    Column("accuracy_high", lambda labels: labels.measured["accuracy_ci95"][1]),
    Column("macro_f1", lambda labels: labels.measured["macro_f1"], mean),
    *(column for name in METRICS if name not in ("accuracy", "macro_f1") for column in _metric_columns(name)),
    Column("majority", lambda labels: labels.tutor.metrics["majority_baseline"][labels.field], mean),
    Column("difference", lambda labels: labels.over_all.difference, mean),
    Column("difference_low", lambda labels: labels.over_all.low),
    Column("difference_high", lambda labels: labels.over_all.high),
    Column("p_value", lambda labels: labels.over_all.p_value),
    Column("both_valid_reference", lambda labels: labels.both_valid.reference),
    Column("both_valid_aligned", lambda labels: labels.both_valid.aligned),
    Column("both_valid_difference", lambda labels: labels.both_valid.difference, mean),
    Column("both_valid_difference_low", lambda labels: labels.both_valid.low),
    Column("both_valid_difference_high", lambda labels: labels.both_valid.high),
    Column("both_valid_p_value", lambda labels: labels.both_valid.p_value),
    Column("both_valid_p_holm", lambda labels: labels.both_valid.p_holm),
    Column("accuracy_sd", lambda labels: labels.measured["accuracy"], deviation, alone=False),
    Column("difference_sd", lambda labels: labels.over_all.tested_difference, deviation, alone=False),
    Column("both_valid_difference_sd", lambda labels: labels.both_valid.tested_difference, deviation, alone=False),
)

LAST_COLUMNS: tuple[Column, ...] = (
    Column("perplexity_scaffold", _perplexity(0), mean),
    Column("perplexity_tell", _perplexity(1), mean),
    Column("scaffold_likelier", lambda tutor: _likelier(tutor, "share"), mean),
    Column("scaffold_likelier_low", lambda tutor: _likelier(tutor, "share_ci95", 0)),
    Column("scaffold_likelier_high", lambda tutor: _likelier(tutor, "share_ci95", 1)),
    Column("perplexity_pairs", lambda tutor: tutor.perplexity.get("pairs"), first),
    Column("marks", lambda tutor: tutor.marks),
)


def columns(fields: Sequence[str]) -> list[Column]:
    """All columns for the label fields of these keys, as functions of a Tutor."""

    def of_field(column: Column, field: str) -> Column:
        return Column(
            f"{field}_{column.name}", lambda tutor: column.value(Labels(tutor, field)), column.of_seeds, column.alone
        )

    return [*COLUMNS, *(of_field(column, field) for field in fields for column in FIELD_COLUMNS), *LAST_COLUMNS]
