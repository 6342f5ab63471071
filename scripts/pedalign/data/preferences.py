"""Preference pairs from a tutor's own mistakes: the gold reply is chosen, the tutor's reply is rejected."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pedalign.core.errors import UserError, nearest
from pedalign.core.json_stream import Lazy
from pedalign.data import paper_rules
from pedalign.data.responses import answered
from pedalign.data.rubric import Rubric


@dataclass(frozen=True)
class PreferenceSettings:
    """Which mistakes become pairs.

    `paper_rules`: mistakes are judged by the paper's rules (data/paper_rules.py). `samples`: responses per prompt.
    `per_prompt`: most pairs of one prompt. `reject`: which mistakes of a prompt are taken first: "first" those sampled
    first, "worst" those with the most wrong labels, "nearest" those with the fewest. `balance`: {"field", "most"}: no
    label of the gold replies has more than `most` times the mean number of pairs per label. `most`: pairs in total.
    Pairs beyond `balance` and `most` are left out at random, from `seed`.
    """

    paper_rules: bool = False
    samples: int = 1
    per_prompt: int = 1
    reject: str = "first"
    balance: dict[str, Any] | None = None
    most: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Mistake:
    row: int  # of the split
    rejected: str
    reason: str
    wrong: int  # number of wrong labels; all of them if the reply can't be read


def mistake(gold: str, response: str, rubric: Rubric) -> tuple[str, int] | None:
    """Why a response is worse than the gold reply, and how many of its labels are wrong.

    The reason is "unparseable" or "incomplete", where all labels count as wrong, or the key of the first label field
    that differs (arXiv 2402.05000, section 4). None if all labels agree or the gold reply has a defect.
    """
    wanted, reply = rubric.parse(gold), rubric.parse(response)
    if wanted.defect:
        return None
    if reply.defect in ("unparseable", "incomplete"):
        return reply.defect, len(rubric.label_fields)
    keys = [field.key for field in rubric.label_fields]
    differing = [key for key in keys if reply.values[key] != wanted.values[key]]
    return (differing[0], len(differing)) if differing else None


def _rejected(response: str, rubric: Rubric, paper_rules: bool) -> str:
    """The text of a wrong response in its pair.

    In canonical form, chosen and rejected differ in content, never in spacing or quoting. By the paper's rules, the
    tutor's text stays as it is.
    """
    reply = rubric.parse(response)
    as_given = paper_rules or reply.defect in ("unparseable", "incomplete")
    return response if as_given else rubric.serialize(reply.values)


def preference_pairs(
    rows: Sequence[dict[str, Any]],
    responses: Iterable[dict[str, str]],
    rubric: Rubric,
    settings: PreferenceSettings,
) -> tuple[dict[str, Sequence[Any]], dict[str, Any]]:
    """Preference pairs as parallel lists in TRL's format, with `conversation_id`, `turn` and `reason`; and the counts.

    `rows` are those of a formatted split, `responses` those of its responses.csv, in the same order.
    The counts say how many pairs each choice leaves.
    Raises UserError if the two do not belong together, no response is wrong, or the rubric lacks the field of
    `balance`; AssertionError, which is a bug, if a rejected reply equals the chosen one.
    """
    rng = random.Random(settings.seed)
    mistakes = _mistakes(rows, responses, rubric, settings)
    n_responses = len(rows) * settings.samples
    if not mistakes:
        raise UserError(
            f"no preference pair: all {n_responses} responses agree with the gold labels",
            "there is nothing to align; take more DPO conversations, or fine-tune for fewer epochs",
        )
    left = [("mistakes", mistakes)]
    kept = _per_prompt(mistakes, settings)
    left.append((f"per_prompt: {settings.per_prompt}", kept))
    if settings.balance:
        kept = _balanced(kept, rows, **settings.balance, rubric=rubric, rng=rng)
        left.append((f"balance: {settings.balance['field']}, most {settings.balance['most']}", kept))
    if settings.most:
        kept = [kept[at] for at in sorted(rng.sample(range(len(kept)), min(settings.most, len(kept))))]
        left.append((f"most: {settings.most}", kept))
    pairs: dict[str, Sequence[Any]] = {
        "conversation_id": [rows[one.row]["conversation_id"] for one in kept],
        "turn": [rows[one.row]["turn"] for one in kept],
        "prompt": Lazy(lambda one: rows[one.row]["prompt"], kept),
        "chosen": Lazy(lambda one: rows[one.row]["chosen"], kept),
        "rejected": Lazy(lambda one: [{"role": "assistant", "content": one.rejected}], kept),
        "reason": [one.reason for one in kept],
    }
    return pairs, {
        "responses": n_responses,
        "pairs": [{"choice": choice, "pairs": len(members)} for choice, members in left],
        "reasons": dict(Counter(pairs["reason"]).most_common()),
    }


def _mistakes(
    rows: Iterable[dict[str, Any]], responses: Iterable[dict[str, str]], rubric: Rubric, settings: PreferenceSettings
) -> list[_Mistake]:
    """Every wrong response, in order; of equal texts for one prompt, only the first."""
    judge = paper_rules.mistake if settings.paper_rules else mistake
    found: dict[tuple[int, str], _Mistake] = {}
    for at, (one, response) in enumerate(answered(rows, responses, settings.samples)):
        row = at // settings.samples
        gold = one["chosen"][0]["content"]
        judged = judge(gold, response["response"], rubric)
        if judged is None:
            continue
        rejected = _rejected(response["response"], rubric, settings.paper_rules)
        if rejected == gold:
            where = f"conversation {one['conversation_id']}, turn {one['turn']}, sample {response['sample']}"
            raise AssertionError(f"{where}: the reply counts as a mistake ({judged[0]}) and is the gold reply: {gold}")
        found.setdefault((row, rejected), _Mistake(row, rejected, *judged))
    return list(found.values())


def _per_prompt(mistakes: Sequence[_Mistake], settings: PreferenceSettings) -> list[_Mistake]:
    kept: list[_Mistake] = []
    for _, group in groupby(mistakes, key=lambda one: one.row):
        members = list(group)
        if settings.reject != "first":
            members.sort(key=lambda one: -one.wrong if settings.reject == "worst" else one.wrong)
        kept += members[: settings.per_prompt]
    return kept


def _balanced(
    mistakes: Sequence[_Mistake],
    rows: Sequence[dict[str, Any]],
    field: str,
    most: float,
    rubric: Rubric,
    rng: random.Random,
) -> list[_Mistake]:
    keys = [one.key for one in rubric.label_fields]
    if field not in keys:
        raise UserError(f"pair.balance: the rubric {rubric.name} has no label '{field}'", nearest(field, keys))
    members: dict[str, list[int]] = {}
    for at, one in enumerate(mistakes):
        gold = rubric.parse(rows[one.row]["chosen"][0]["content"]).values
        members.setdefault(gold.get(field, ""), []).append(at)
    limit = max(1, round(most * len(mistakes) / len(members)))
    drawn = [at for group in members.values() for at in rng.sample(group, min(limit, len(group)))]
    return [mistakes[at] for at in sorted(drawn)]
