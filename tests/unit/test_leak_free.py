"""Splits in which no problem is twice: sizes are met, problems shared out in proportion, label shares kept."""

import json
import os
import random
import tempfile
import time
from collections import Counter
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pedalign.core.errors import UserError
from pedalign.data.leak_free import TOLERANCE, ProblemCounts, assign, even_counts, numbers_of_problems
from pedalign.data.splits import SplitSettings, dataset_files, draw

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
    assert report["leak_free"]["problems"] == {"sft": 8, "dpo": 6, "test": 6}
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
    lambda conversations, a, b: ProblemCounts(conversations, {("evaluation", "a"): a, ("evaluation", "b"): b}),
    st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(any),
    st.integers(0, 9),
    st.integers(1, 9),
)


def evenly(problems, sizes) -> list[float]:
    """How many conversations an even draw of all sizes together takes of each problem: poured in, drop by drop."""
    room, wanted = [sum(one.conversations) for one in problems.values()], 2 * sum(sizes.values())
    poured = [0.0 for _ in room]
    while sum(poured) < wanted - 1e-9:
        open_ = [at for at, most in enumerate(room) if poured[at] < most - 1e-9]
        drop = min([(wanted - sum(poured)) / len(open_), *(room[at] - poured[at] for at in open_)])
        for at in open_:
            poured[at] += drop
    return poured


def difference(problems, sizes, homes) -> float:
    """The mean difference of label shares in what is drawn, for a split of each problem."""
    totals = {label: sum(one.labels[label] for one in problems.values()) for label in problems["0"].labels}
    replies = sum(totals.values())
    drawn = [
        share / sum(one.conversations) for share, one in zip(evenly(problems, sizes), problems.values(), strict=True)
    ]
    expected = sum(share * sum(one.labels.values()) for share, one in zip(drawn, problems.values(), strict=True))
    found = []
    for split, size in sizes.items():
        members = [
            (share, one) for share, one, home in zip(drawn, problems.values(), homes, strict=True) if home == split
        ]
        for label, total in totals.items():
            surplus = sum(
                share * (one.labels[label] - total / replies * sum(one.labels.values())) for share, one in members
            )
            found.append(abs(surplus) / (expected * size / sum(sizes.values())))
    return sum(found) / len(found)


@settings(deadline=None, max_examples=15)
@given(st.lists(COUNTS, min_size=2, max_size=5), st.integers(1, 4), st.integers(1, 4))
def test_the_assignment_is_the_best_of_all_or_there_is_none(drawn, first, second):
    """Of those that meet the sizes: nearest to the numbers of problems in proportion, then of labels most alike."""
    problems = {str(number): one for number, one in enumerate(drawn)}
    sizes = {"sft": first, "test": second}
    exact = numbers_of_problems(len(problems), sizes)

    def off(homes) -> int:
        return sum(abs(homes.count(split) - number) for split, number in exact.items())

    possible = []
    for homes in product(sizes, repeat=len(drawn)):
        enough = all(
            sum(one.conversations[file] for one, home in zip(drawn, homes, strict=True) if home == split) >= size
            for split, size in sizes.items()
            for file in (0, 1)
        )
        if enough:
            possible.append((off(homes), difference(problems, sizes, homes)))
    if not possible:
        with pytest.raises(UserError, match="can't be shared out"):
            assign(problems, sizes)
        return
    found = assign(problems, sizes)
    homes = [found.splits[problem] for problem in problems]
    nearest, least = min(possible)
    assert off(homes) == nearest
    assert difference(problems, sizes, homes) == pytest.approx(found.difference, abs=1e-5)
    assert found.difference <= least + found.gap + 1e-5 <= least + TOLERANCE + 1e-5


@given(st.integers(1, 60), st.lists(st.integers(1, 50), min_size=3, max_size=3))
def test_the_numbers_of_problems_are_whole_and_in_proportion(problems, sizes):
    numbers = numbers_of_problems(problems, dict(zip(SIZES, sizes, strict=True)))
    assert sum(numbers.values()) == problems
    for number, size in zip(numbers.values(), sizes, strict=True):
        assert abs(number - problems * size / sum(sizes)) < 1


@settings(deadline=None, max_examples=60)
@example([(1, 1), (1, 0)], 1)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_each_file_gives_its_size_and_no_draw_is_more_even_over_the_problems(available, size):
    size = min([size, *map(sum, zip(*available, strict=True))])
    counts = even_counts(available, size)
    ways = product(*(product(range(one + 1), range(two + 1)) for one, two in available))
    whole = [way for way in ways if all(sum(column) == size for column in zip(*way, strict=True))]
    assert tuple(map(tuple, counts)) in whole
    assert sorted(map(sum, counts)) == max(sorted(map(sum, way)) for way in whole)


def test_a_field_none_of_whose_labels_is_known_does_not_keep_problems_from_being_shared_out() -> None:
    problems = {name: ProblemCounts((3,), {("action", "1"): 0, ("state", "a"): at}) for at, name in enumerate("abcd")}
    assigned = assign(problems, {"sft": 3, "test": 3})
    assert sorted(assigned.splits.values()) == ["sft", "sft", "test", "test"]
    unknown = {name: ProblemCounts((3,), {("action", "1"): 0}) for name in "ab"}
    assert sorted(assign(unknown, {"sft": 3, "test": 3}).splits.values()) == ["sft", "test"]


@pytest.fixture(scope="module")
def simulated(root):
    return dataset_files(root / "datasets/simulated", "bio")


def test_a_small_draw_of_many_conversations_is_about_problems_in_proportion_and_evenly(rubric, simulated):
    splits, report = draw(simulated, rubric, SplitSettings(sft=40, dpo=25, test=25, seed=42, method="leak_free"))
    assert report["leak_free"]["problems"] == {"sft": 32, "dpo": 20, "test": 20}
    for split, members in splits.items():
        per_problem = Counter(member.problem for member in members)
        assert len(per_problem) == report["splits"][split]["problems"] == report["leak_free"]["problems"][split]
        assert set(per_problem.values()) <= {3, 4}
    assert report["leak_free"]["label_share_difference"] < 0.01
    assert report["warnings"] == []


def test_a_split_about_few_problems_for_its_size_is_said_so_whatever_the_method(rubric, tmp_path):
    files = write_files(tmp_path, rubric, problems=6, per_problem=30)
    for method, problems in (("leak_free", (2, 2, 2)), ("random", (6, 6, 6))):
        _, report = draw(files, rubric, SplitSettings(sft=20, dpo=20, test=20, seed=1, method=method))
        assert len(report["warnings"]) == 3
        for warning, split, number in zip(report["warnings"], SIZES, problems, strict=True):
            assert f"the {split} split is about few problems for its size: {number} for 40 conversations" in warning
    _, report = draw(files, rubric, SplitSettings(sft=1, dpo=1, test=1, seed=1))
    assert report["warnings"] == []
    files = write_files(tmp_path, rubric, problems=10, per_problem=60)
    _, report = draw(files, rubric, SplitSettings(sft=251, dpo=20, test=250, seed=1))
    (warning,) = report["warnings"]
    assert "the sft split is about few problems for its size: 10 for 502 conversations, 50.2 each" in warning


def test_the_solver_works_where_the_temporary_folder_has_a_space(rubric, tmp_path, monkeypatch):
    folder = tmp_path / "my own $TMP; (1) 'é"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up anew
    files = write_files(tmp_path, rubric, problems=6, per_problem=4)
    before = os.getcwd()
    splits, _ = draw(files, rubric, SplitSettings(sft=2, dpo=2, test=2, seed=1, method="leak_free"))
    assert [len(members) for members in splits.values()] == [4, 4, 4]
    assert os.getcwd() == before
    assert list(folder.iterdir()) == []


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
