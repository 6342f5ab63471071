"""Assigns problems to splits by a small integer program, so that no problem is in two splits."""

import contextlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pulp

from pedalign.core.errors import UserError

TOLERANCE = 0.002  # distance from the optimum, in shares, at which the search ends
MAX_NODES = 20_000  # limit of the search; in nodes, not seconds, so that every machine finds the same splits


@dataclass(frozen=True)
class ProblemCounts:
    """How many conversations each file has about one problem, and how often each label occurs in them."""

    conversations: tuple[int, ...]
    labels: Mapping[tuple[str, str], int]  # (label field's key, label) → replies


@dataclass(frozen=True)
class Assignment:
    """The split of each problem, and how alike the splits are.

    `difference`: the mean difference between a label's share in a split and in all conversations, over splits and
    labels; at most `gap` above the least possible one.
    """

    splits: dict[str, str]
    difference: float
    gap: float


def assign(problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int]) -> Assignment:
    """Assign each problem to a split.

    The numbers of problems are in proportion to `sizes`, and each file has at least as many conversations about a
    split's problems as `sizes` says. If both are not possible, the numbers of problems deviate, as little as possible.
    The label shares of the splits are as close as possible to those of all conversations, up to TOLERANCE or the best
    found in MAX_NODES. Equal arguments give equal assignments. Raises UserError, with the numbers, if no assignment
    meets the sizes.
    """
    found = _most_alike(problems, sizes, 0)
    if not found:
        model, _, share, off = _model(problems, sizes)
        model += share == 1
        model.setObjective(off)
        feasible, _ = _solved(model)
        if not feasible:
            raise _infeasible(problems, sizes)
        found = _most_alike(problems, sizes, round(off.value()))
    if not found:
        raise _infeasible(problems, sizes)
    return found


def even_counts(available: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """How many conversations to take of each problem (rows) from each file (columns).

    Every file gives `size`, and the problems' totals are as even as what is `available` allows. In each round, each
    problem takes one more conversation, until every file has given `size`. If all files of a problem have given `size`,
    another problem that took from one of them takes from a different file instead (an augmenting path). So no problem
    gets a second conversation before all that can have got a first. Of equal problems, the first gets more.
    """
    files = range(len(available[0]))
    counts, given = [[0 for _ in files] for _ in available], [0 for _ in files]

    def take(problem: int, tried: set[int]) -> bool:
        for file in sorted(files, key=given.__getitem__):
            if file in tried or counts[problem][file] == available[problem][file]:
                continue
            tried.add(file)
            if given[file] < size:
                given[file] += 1
            else:
                gives = (other for other, taken in enumerate(counts) if taken[file] and other != problem)
                other = next((one for one in gives if take(one, tried)), None)
                if other is None:
                    continue
                counts[other][file] -= 1
            counts[problem][file] += 1
            return True
        return False

    able = list(range(len(available)))
    while able and min(given) < size:
        able = [problem for problem in able if min(given) < size and take(problem, set())]
    return counts


def _most_alike(problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int], off_by: int) -> Assignment | None:
    """The assignment with the most alike label shares, whose numbers of problems differ from proportion by at most
    `off_by` in total."""
    model, takes, share, off = _model(problems, sizes)
    model += share == 1
    model += off <= off_by
    drawn = _share_drawn(problems, sizes)
    differences: list[pulp.LpAffineExpression] = []
    for label in sorted({label for one in problems.values() for label in one.labels}):
        label_total = sum(one.labels.get(label, 0) for one in problems.values())
        total = sum(_replies(one, label[0]) for one in problems.values())
        expected = sum(drawn[problem] * _replies(one, label[0]) for problem, one in problems.items())
        if not label_total or not expected:  # no share to keep
            continue
        surplus = {
            problem: drawn[problem] * (one.labels.get(label, 0) - label_total / total * _replies(one, label[0]))
            for problem, one in problems.items()
        }
        for split, size in sizes.items():
            above, below = (model.add_variable(f"{sign}_{len(differences)}", lowBound=0) for sign in ("above", "below"))
            scale = sum(sizes.values()) / size / expected
            taken = pulp.lpSum(takes[problem, split] * (scale * more) for problem, more in surplus.items())
            model += taken == above - below
            differences.append(above + below)
    model.setObjective(pulp.lpSum(differences) * (1 / max(len(differences), 1)))
    found, gap = _solved(model)
    if not found:
        return None
    splits = {problem: split for problem in problems for split in sizes if takes[problem, split].value() > 0.5}
    return Assignment(splits, round(float(pulp.value(model.objective) or 0), 6), gap)


def _replies(one: ProblemCounts, field: str) -> int:
    return sum(number for (key, _), number in one.labels.items() if key == field)


def _share_drawn(problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int]) -> dict[str, float]:
    """The share of each problem's conversations in an even draw: each problem gives equally many, or all it has."""
    totals = {problem: sum(one.conversations) for problem, one in problems.items()}
    files = len(next(iter(problems.values())).conversations)
    left, level = float(sum(sizes.values()) * files), 0.0
    for number, total in enumerate(sorted(totals.values())):
        level = left / (len(totals) - number)  # conversations from each of the remaining problems
        if total >= level:
            break
        left -= total
    return {problem: min(1.0, level / max(total, 1)) for problem, total in totals.items()}


def numbers_of_problems(problems: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many problems each split gets: whole numbers in proportion to `sizes`, the largest remainders rounded up."""
    exact = {split: problems * size / sum(sizes.values()) for split, size in sizes.items()}
    numbers = {split: int(number) for split, number in exact.items()}
    by_remainder = sorted(sizes, key=lambda split: numbers[split] - exact[split])
    for split in by_remainder[: problems - sum(numbers.values())]:
        numbers[split] += 1
    return numbers


def _model(
    problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int]
) -> tuple[pulp.LpProblem, dict[tuple[str, str], pulp.LpVariable], pulp.LpVariable, pulp.LpAffineExpression]:
    """The program, its variables (problem, split) → whether it is taken, the share, and the deviation.

    Each problem goes to one split, and every file has at least `share` times `sizes` for each split. The deviation is
    by how many problems the splits differ from proportion.
    """
    model = pulp.LpProblem("leak_free_splits", pulp.LpMinimize)
    share = model.add_variable("share", lowBound=0, upBound=1)
    takes = {
        (problem, split): model.add_variable(f"takes_{number}_{split}", cat="Binary")
        for number, problem in enumerate(problems)
        for split in sizes
    }
    for problem in problems:
        model += pulp.lpSum(takes[problem, split] for split in sizes) == 1
    for file in range(len(next(iter(problems.values())).conversations)):
        for split, size in sizes.items():
            given = pulp.lpSum(takes[problem, split] * one.conversations[file] for problem, one in problems.items())
            model += given >= share * size
    off = []
    for split, number in numbers_of_problems(len(problems), sizes).items():
        more, fewer = (model.add_variable(f"{sign}_{split}", lowBound=0) for sign in ("more", "fewer"))
        model += pulp.lpSum(takes[problem, split] for problem in problems) == number + more - fewer
        off += [more, fewer]
    return model, takes, share, pulp.lpSum(off)


def _solved(model: pulp.LpProblem) -> tuple[bool, float]:
    """Solve the program. Returns whether a solution was found, and its largest possible distance from the best one."""
    # PuLP splits CBC's command line at spaces, so CBC runs in the folder and gets file names, not paths.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        solver = pulp.COIN_CMD(
            path=pulp.PULP_CBC_CMD.pulp_cbc_path,
            gapAbs=TOLERANCE,
            maxNodes=MAX_NODES,
            threads=1,
            options=["randomSeed 42"],
            logPath="cbc.log",
            keepFiles=True,
            msg=False,
        )
        model.solve(solver)
        found = model.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
        bound = re.search(r"^Lower bound:\s+(\S+)", Path("cbc.log").read_text(), re.MULTILINE)
    if not found:
        return False, 0.0
    gap = float(pulp.value(model.objective) or 0) - float(bound[1]) if bound else TOLERANCE
    if model.sol_status == pulp.LpSolutionOptimal:
        gap = min(gap, TOLERANCE)  # the bound is printed with three digits
    return True, round(max(gap, 0.0), 6)


def _infeasible(problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int]) -> UserError:
    """The error for sizes without an assignment; it says which smaller sizes fit."""
    model, _, share, _ = _model(problems, sizes)
    model.setObjective(-share)
    found, _ = _solved(model)
    fits = {split: int((share.value() if found else 0) * size + 1e-6) for split, size in sizes.items()}
    most = max(max(one.conversations) for one in problems.values())
    remedy = "take more problems or method: random"
    if all(fits.values()):
        remedy = f"lower 'split' in config.yaml ({_listed(fits)} fit), or {remedy}"
    return UserError(
        f"split.method leak_free: {len(problems)} problems, of up to {most} conversations in a file, can't be shared "
        f"out so that each stays whole and every file gives {_listed(sizes)}",
        remedy,
    )


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {size}" for split, size in sizes.items())
