"""Which problems go to which split, so that no problem is in two of them: a small integer program."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pulp

from pedalign.errors import UserError

TOLERANCE = 0.002  # of the optimum, in shares: what is that near is not searched on
MAX_NODES = 20_000  # of the search; nodes, not seconds, so that every machine ends with the same splits


@dataclass(frozen=True)
class ProblemCounts:
    """What the conversations about one problem hold: how many there are in each file, and how often each label."""

    conversations: tuple[int, ...]
    labels: Mapping[tuple[str, str], int]  # (label field's key, label) → replies


@dataclass(frozen=True)
class Assignment:
    """`splits`: problem → split, for the problems that are used. `difference`: the mean difference between a label's
    share in a split and in all conversations, over splits and labels; at most `gap` above the least possible one."""

    splits: dict[str, str]
    difference: float
    gap: float


def assign(problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int]) -> Assignment:
    """A split for each problem such that every file has `sizes` conversations for every split.

    The shares of the labels are kept as close to those of all conversations as can be, up to TOLERANCE or the best
    found in MAX_NODES. Equal arguments give equal assignments. Raises UserError, with the numbers, where no assignment
    meets the sizes.
    """
    model, takes, share = _model(problems, sizes)
    model += share == 1
    total = {label: sum(one.labels.get(label, 0) for one in problems.values()) for label in _labels(problems)}
    differences: list[pulp.LpVariable] = []
    for split in sizes:
        for label, count in total.items():
            field_total = sum(number for (key, _), number in total.items() if key == label[0])
            surplus = pulp.lpSum(
                takes[problem, split] * (one.labels.get(label, 0) - count / field_total * _replies(one, label[0]))
                for problem, one in problems.items()
            )
            difference = model.add_variable(f"difference_{len(differences)}", lowBound=0)
            expected = field_total * sizes[split] / sum(sizes.values())
            model += difference >= surplus * (1 / expected)
            model += difference >= surplus * (-1 / expected)
            differences.append(difference)
    model.setObjective(pulp.lpSum(differences) * (1 / len(differences)))
    found, gap = _solved(model)
    if not found:
        raise _infeasible(problems, sizes)
    splits = {problem: split for problem in problems for split in sizes if takes[problem, split].value() > 0.5}
    return Assignment(splits, round(float(pulp.value(model.objective)), 6), gap)


def _labels(problems: Mapping[str, ProblemCounts]) -> list[tuple[str, str]]:
    return sorted({label for one in problems.values() for label in one.labels})


def _replies(one: ProblemCounts, field: str) -> int:
    return sum(number for (key, _), number in one.labels.items() if key == field)


def _model(
    problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int]
) -> tuple[pulp.LpProblem, dict[tuple[str, str], pulp.LpVariable], pulp.LpVariable]:
    """A problem goes to one split at most, and every file has the share `share` of the `sizes` for every split."""
    model = pulp.LpProblem("leak_free_splits", pulp.LpMinimize)
    share = model.add_variable("share", lowBound=0, upBound=1)
    takes = {
        (problem, split): model.add_variable(f"takes_{number}_{split}", cat="Binary")
        for number, problem in enumerate(problems)
        for split in sizes
    }
    for problem in problems:
        model += pulp.lpSum(takes[problem, split] for split in sizes) <= 1
    for file in range(len(next(iter(problems.values())).conversations)):
        for split, size in sizes.items():
            given = pulp.lpSum(takes[problem, split] * one.conversations[file] for problem, one in problems.items())
            model += given >= share * size
    return model, takes, share


def _solved(model: pulp.LpProblem) -> tuple[bool, float]:
    """Whether a solution was found, and how far it is from the best one at most."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cbc.log"
        solver = pulp.COIN_CMD(
            path=pulp.PULP_CBC_CMD.pulp_cbc_path,
            gapAbs=TOLERANCE,
            maxNodes=MAX_NODES,
            threads=1,
            options=["randomSeed 42"],
            logPath=str(log),
            msg=False,
        )
        model.solve(solver)
        found = model.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
        bound = re.search(r"^Lower bound:\s+(\S+)", log.read_text(), re.MULTILINE)
    if not found:
        return False, 0.0
    gap = float(pulp.value(model.objective)) - float(bound[1]) if bound else TOLERANCE
    if model.sol_status == pulp.LpSolutionOptimal:
        gap = min(gap, TOLERANCE)  # the bound is printed with three digits
    return True, round(max(gap, 0.0), 6)


def _infeasible(problems: Mapping[str, ProblemCounts], sizes: Mapping[str, int]) -> UserError:
    """Says at which share of the sizes there would be an assignment."""
    model, _, share = _model(problems, sizes)
    model.setObjective(-share)
    found, _ = _solved(model)
    fits = {split: int((share.value() if found else 0) * size + 1e-6) for split, size in sizes.items()}
    most = max(max(one.conversations) for one in problems.values())
    remedy = "take more problems or method: random"
    if all(fits.values()):
        remedy = f"lower 'splits' in config.yaml ({_listed(fits)} fit), or {remedy}"
    return UserError(
        f"splits.method leak_free: {len(problems)} problems, of up to {most} conversations in a file, can't be shared "
        f"out so that each stays whole and every file gives {_listed(sizes)}",
        remedy,
    )


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {size}" for split, size in sizes.items())
