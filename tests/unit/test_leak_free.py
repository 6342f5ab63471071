"""Splits in which no problem is twice: sizes are met, label shares kept, and what can't be is explained."""

import json
import random
import time
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedalign.errors import UserError
from pedalign.leak_free import TOLERANCE, ProblemCounts, assign
from pedalign.splits import SplitSettings, draw

VALUES = {"evaluation": "a", "action": "1", "state": "x", "subproblem": "Why?", "tutorbot": "Look again."}
SIZES = {"sft": 6, "dpo": 4, "test": 4}


def write_files(folder, rubric, problems: int, per_problem: int, seed: int = 1):
    """Two files of conversations whose labels go with the problem: half of the problems are answered wrongly."""
    rng = random.Random(seed)
    files = []
    for number in (1, 2):
        records = []
        for at in rng.sample(range(problems * per_problem), problems * per_problem):
            labels = {"evaluation": "a", "action": "1"} if at % problems % 2 else {"evaluation": "b", "action": "3"}
            texts = [f"Hello. Q. What is {at % problems}?", rubric.serialize({**VALUES, **labels})] * 2
            entries = [{"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(texts)]
            records.append({"id": str(at), "conversations": entries})
        files.append(folder / f"d-dataset-{number}.json")
        files[-1].write_text(json.dumps(records))
    return files


def test_no_problem_is_in_two_splits_and_the_sizes_are_met(rubric, tmp_path):
    files = write_files(tmp_path, rubric, problems=20, per_problem=4)
    wanted = SplitSettings(sft=24, dpo=16, test=16, seed=42, method="leak_free")
    splits, report = draw(files, rubric, wanted)
    assert {name: len(members) for name, members in splits.items()} == {"sft": 48, "dpo": 32, "test": 32}
    assert {one["conversations"] for one in report["leaks"].values()} == {0}
    homes = [{member.problem for member in members} for members in splits.values()]
    assert sum(map(len, homes)) == len(set.union(*homes))
    for name, labels in report["splits"].items():
        shares = Counter(labels["labels"]["evaluation"])
        assert shares["a"] / sum(shares.values()) == pytest.approx(0.5, abs=0.13), name
    assert report["leak_free"]["gap"] <= TOLERANCE
    again, _ = draw(files, rubric, wanted)
    other, _ = draw(files, rubric, SplitSettings(24, 16, 16, seed=43, method="leak_free"))
    ids = [[[one.id for one in drawn[split]] for split in SIZES] for drawn in (splits, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_the_plain_draw_leaks_on_the_same_files(rubric, tmp_path):
    files = write_files(tmp_path, rubric, problems=20, per_problem=4)
    _, report = draw(files, rubric, SplitSettings(sft=24, dpo=16, test=16, seed=42))
    assert report["leaks"]["test_shares_problem_with_sft"]["conversations"] > 20


def test_sizes_that_cannot_be_met_are_explained_with_numbers(rubric, tmp_path, refused):
    files = write_files(tmp_path, rubric, problems=4, per_problem=10)
    with refused("4 problems, of up to 10 conversations", "sft 14, dpo 12, test 11", "sft 11, dpo 10, test 9 fit"):
        draw(files, rubric, SplitSettings(14, 12, 11, seed=1, method="leak_free"))
    files = write_files(tmp_path, rubric, problems=2, per_problem=10)
    with refused("2 problems", "take more problems"):
        draw(files, rubric, SplitSettings(2, 2, 2, seed=1, method="leak_free"))


COUNTS = st.builds(
    lambda first, second, a, b: ProblemCounts((first, second), {("evaluation", "a"): a, ("evaluation", "b"): b}),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 9),
    st.integers(1, 9),
)


def difference(problems, sizes, homes) -> float:
    """The mean difference of label shares, for a split of each problem (None: not used)."""
    totals = {label: sum(one.labels[label] for one in problems.values()) for label in problems["0"].labels}
    replies = sum(totals.values())
    found = []
    for split, size in sizes.items():
        members = [one for one, home in zip(problems.values(), homes, strict=True) if home == split]
        for label, total in totals.items():
            surplus = sum(one.labels[label] - total / replies * sum(one.labels.values()) for one in members)
            found.append(abs(surplus) / (replies * size / sum(sizes.values())))
    return sum(found) / len(found)


@settings(deadline=None, max_examples=15)
@given(st.lists(COUNTS, min_size=2, max_size=5), st.integers(1, 4), st.integers(1, 4))
def test_the_assignment_is_the_best_of_all_or_there_is_none(drawn, first, second):
    problems = {str(number): one for number, one in enumerate(drawn)}
    sizes = {"sft": first, "test": second}
    possible = []
    for homes in product([None, *sizes], repeat=len(drawn)):
        enough = all(
            sum(one.conversations[file] for one, home in zip(drawn, homes, strict=True) if home == split) >= size
            for split, size in sizes.items()
            for file in (0, 1)
        )
        if enough:
            possible.append(difference(problems, sizes, homes))
    if not possible:
        with pytest.raises(UserError, match="can't be shared out"):
            assign(problems, sizes)
        return
    found = assign(problems, sizes)
    homes = [found.splits.get(problem) for problem in problems]
    assert difference(problems, sizes, homes) == pytest.approx(found.difference, abs=1e-5)
    assert found.difference <= min(possible) + found.gap + 1e-5 <= min(possible) + TOLERANCE + 1e-5


def test_a_bank_of_the_papers_size_is_shared_out_in_seconds():
    rng = random.Random(1)
    problems = {
        str(number): ProblemCounts(
            tuple(rng.randint(0, 3) for _ in range(3)),
            {("action", str(label)): rng.randint(0, 9) for label in range(12)},
        )
        for number in range(500)
    }
    started = time.monotonic()
    found = assign(problems, {"sft": 200, "dpo": 200, "test": 150})
    assert found.gap <= TOLERANCE
    assert time.monotonic() - started < 60
