"""Drawing the SFT, DPO and test splits, and saying what was drawn, dropped and shared."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pedalign import paper
from pedalign.artifacts import sha256
from pedalign.conversation import Conversation, RawConversation, clean, read_conversations
from pedalign.errors import UserError
from pedalign.leak_free import ProblemCounts, assign
from pedalign.rubric import Canonical, Rubric

SPLITS = ("sft", "dpo", "test")


@dataclass(frozen=True)
class SplitSettings:
    """Conversations drawn per file for each split, how, and the seed of the draw.

    `method`: "random" as the paper draws, or "leak_free": all conversations about a problem are in one split.
    `paper_rules`: a file with too few conversations gives what it has, the test split the fewer (else it is refused),
    and replies are read as the paper reads them.
    """

    sft: int
    dpo: int
    test: int
    seed: int
    method: str = "random"
    paper_rules: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        return {split: getattr(self, split) for split in SPLITS}


def dataset_files(folder: Path, dataset: str) -> list[Path]:
    """`<dataset>-dataset-<n>.json` of a folder in the order of n. Raises UserError if there is none."""
    pattern = re.compile(rf"{re.escape(dataset)}-dataset-([0-9]+)\.json")
    found = sorted(
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := pattern.fullmatch(path.name))
    )
    if not found:
        raise UserError(
            f"{folder}: no file {dataset}-dataset-<n>.json there",
            "put the conversation files there, or set 'source' and 'dataset' in config.yaml",
        )
    return [path for _, path in found]


def perplexity_file(folder: Path, dataset: str) -> Path:
    """`<dataset>-dataset-ppl.json` of a folder. Raises UserError if it is not there."""
    path = folder / f"{dataset}-dataset-ppl.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, so there are no pairs of replies to compute a perplexity on",
            "put it there (each conversation ends in two replies to one history), or do without perplexity.json",
        )
    return path


def draw(
    files: Sequence[Path], rubric: Rubric, settings: SplitSettings
) -> tuple[dict[str, list[Conversation]], dict[str, Any]]:
    """Draw conversations from each file for each split, then read their replies and cut where one is not valid.

    Returns the splits and the account of them (`splits.json`).
    Raises UserError where a file has too few conversations (but not under the paper's rules), or a split is empty.
    """
    canonical = paper.canonical_form(rubric, settings.paper_rules)
    report: dict[str, Any] = {
        "seed": settings.seed,
        "method": settings.method,
        "paper_rules": settings.paper_rules,
        "wanted_per_file": settings.sizes,
        "simulated": 0,
        "files": [],
        "splits": {},
        "cut": [],
        "dropped": [],
    }
    eligible = []
    for path in files:
        conversations = read_conversations(path)
        eligible.append([raw for raw in conversations if len(raw.texts) > 2])
        counts = {"conversations": len(conversations), "eligible": len(eligible[-1])}
        report["files"].append({"file": path.name, "sha256": sha256(path), **counts})
        if not settings.paper_rules:
            _check_enough(path, counts["eligible"], settings.sizes)
    if settings.method == "leak_free":
        drawn, report["leak_free"] = _draw_leak_free(eligible, rubric, settings, canonical)
    else:
        drawn = _draw_random(eligible, settings)
    splits: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for number, by_split in enumerate(drawn, start=1):
        for split, raws in by_split.items():
            report["simulated"] += sum(raw.simulated for raw in raws)
            for raw in raws:
                conversation, cut = clean(raw, canonical)
                conversation = Conversation(f"{number}:{raw.id}", conversation.messages)
                if cut:
                    report["cut"].append({"split": split, "id": conversation.id, **vars(cut)})
                if conversation.n_turns:
                    splits[split].append(conversation)
                else:
                    report["dropped"].append({"split": split, "id": conversation.id, "reason": "no valid reply"})
    for split, members in splits.items():
        if not members:
            dropped = sum(one["split"] == split for one in report["dropped"])
            raise UserError(
                f"the {split} split is empty: none of {dropped} drawn conversations opens with a valid reply",
                f"look at the replies in {files[0]}: they must hold the fields of the rubric {rubric.name}",
            )
        report["splits"][split] = {
            "conversations": len(members),
            "tutor_turns": sum(member.n_turns for member in members),
            "of_one_turn": sum(member.n_turns == 1 for member in members),
            "problems": len({member.problem for member in members}),
            "labels": label_counts(members, rubric),
        }
    report["cut_by_reason"] = dict(Counter(cut["defect"] for cut in report["cut"]))
    report["leaks"] = leaks(splits)
    return splits, report


def _check_enough(path: Path, eligible: int, sizes: dict[str, int]) -> None:
    wanted = sum(sizes.values())
    if eligible < wanted:
        raise UserError(
            f"{path}: {wanted} conversations wanted ({', '.join(f'{split} {size}' for split, size in sizes.items())}), "
            f"{eligible} have more than two turns: {wanted - eligible} are missing",
            "lower the sizes under 'splits' in config.yaml, or add conversations",
        )


Drawn = list[dict[str, list[RawConversation]]]  # for each file, split → conversations


def _draw_random(eligible: Sequence[list[RawConversation]], settings: SplitSettings) -> Drawn:
    """As the paper's code does: Python's `random` is seeded once; for each file in order a sample of all sizes
    together is drawn, in one call, from its conversations of more than two entries in file order, and cut in the order
    SFT, DPO, test (arXiv 2402.05000, preprocess_sft_data.py)."""
    rng = random.Random(settings.seed)
    wanted = sum(settings.sizes.values())
    drawn = []
    for raws in eligible:
        sample = iter(rng.sample(raws, min(wanted, len(raws))))
        drawn.append({split: list(islice(sample, size)) for split, size in settings.sizes.items()})
    return drawn


def _draw_leak_free(
    eligible: Sequence[list[RawConversation]],
    rubric: Rubric,
    settings: SplitSettings,
    canonical: Callable[[str], Canonical],
) -> tuple[Drawn, dict[str, Any]]:
    """Each split draws from the conversations about its own problems; and what was shared out, and how well."""
    members: dict[str, list[list[RawConversation]]] = {}  # problem → for each file its conversations
    cleaned: dict[str, list[Conversation]] = {}
    for number, raws in enumerate(eligible):
        for raw in raws:
            conversation, _ = clean(raw, canonical)
            if conversation.n_turns:
                members.setdefault(conversation.problem, [[] for _ in eligible])[number].append(raw)
                cleaned.setdefault(conversation.problem, []).append(conversation)
    problems = {}
    for problem, by_file in members.items():
        counts = label_counts(cleaned[problem], rubric)
        labels = {(key, label): count for key, one in counts.items() for label, count in one.items()}
        problems[problem] = ProblemCounts(tuple(map(len, by_file)), labels)
    assignment = assign(problems, settings.sizes)
    rng = random.Random(settings.seed)
    drawn: Drawn = []
    for number in range(len(eligible)):
        drawn.append({})
        for split, size in settings.sizes.items():
            pool = [
                raw for problem, home in assignment.splits.items() if home == split for raw in members[problem][number]
            ]
            drawn[-1][split] = rng.sample(pool, size)
    return drawn, {
        "problems": dict(Counter(assignment.splits.values())),
        "label_share_difference": assignment.difference,
        "gap": assignment.gap,
    }


def label_counts(conversations: Sequence[Conversation], rubric: Rubric) -> dict[str, dict[str, int]]:
    """How often each label stands in the tutor's replies, by label field, in the rubric's order."""
    replies = [
        rubric.parse(message["content"]).values
        for conversation in conversations
        for message in conversation.messages[1::2]
    ]
    counts = {field.key: Counter(reply.get(field.key) for reply in replies) for field in rubric.label_fields}
    return {field.key: {label: counts[field.key][label] for label in field.labels} for field in rubric.label_fields}


def leaks(splits: dict[str, list[Conversation]]) -> dict[str, dict[str, int]]:
    """How many test conversations share their problem with a training split."""
    report = {}
    for split in ("sft", "dpo"):
        known = {conversation.problem for conversation in splits[split]}
        shared = [conversation for conversation in splits["test"] if conversation.problem in known]
        report[f"test_shares_problem_with_{split}"] = {"conversations": len(shared), "of": len(splits["test"])}
    return report
