"""Drawing the SFT, DPO and test splits, and saying what was drawn, dropped and shared."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedalign.artifacts import sha256
from pedalign.conversation import Conversation, clean, read_conversations
from pedalign.errors import UserError
from pedalign.rubric import Rubric

SPLITS = ("sft", "dpo", "test")


@dataclass(frozen=True)
class SplitSettings:
    """Conversations drawn per file for each split, and the seed of the draw."""

    sft: int
    dpo: int
    test: int
    seed: int

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


def draw(
    files: Sequence[Path], rubric: Rubric, settings: SplitSettings
) -> tuple[dict[str, list[Conversation]], dict[str, Any]]:
    """Draw conversations from each file for each split, as the paper's code does.

    Python's `random` is seeded once; for each file in order a sample of all sizes together is drawn,
    in one call, from its conversations of more than two entries in file order, and cut in the order
    SFT, DPO, test; only then are the replies read and conversations cut (arXiv 2402.05000,
    preprocess_sft_data.py).

    Returns the splits and the account of them (`splits.json`).
    Raises UserError where a file has too few conversations.
    """
    rng = random.Random(settings.seed)
    sizes = settings.sizes
    wanted = sum(sizes.values())
    splits: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    report: dict[str, Any] = {
        "seed": settings.seed,
        "wanted_per_file": sizes,
        "simulated": 0,
        "files": [],
        "splits": {},
        "cut": [],
        "dropped": [],
    }
    for number, path in enumerate(files, start=1):
        conversations = read_conversations(path)
        eligible = [raw for raw in conversations if len(raw.texts) > 2]
        if len(eligible) < wanted:
            raise UserError(
                f"{path}: {wanted} conversations wanted ({', '.join(f'{split} {sizes[split]}' for split in SPLITS)}), "
                f"{len(eligible)} have more than two turns: {wanted - len(eligible)} are missing",
                "lower the sizes under 'splits' in config.yaml, or add conversations",
            )
        report["files"].append(
            {"file": path.name, "sha256": sha256(path), "conversations": len(conversations), "eligible": len(eligible)}
        )
        sample = rng.sample(eligible, wanted)
        report["simulated"] += sum(raw.simulated for raw in sample)
        drawn = iter(sample)
        for split in SPLITS:
            for raw in (next(drawn) for _ in range(sizes[split])):
                conversation, cut = clean(raw, rubric)
                conversation = Conversation(f"{number}:{raw.id}", conversation.messages)
                if cut:
                    report["cut"].append({"split": split, "id": conversation.id, **vars(cut)})
                if conversation.n_turns:
                    splits[split].append(conversation)
                else:
                    report["dropped"].append({"split": split, "id": conversation.id, "reason": "no valid reply"})
    for split, members in splits.items():
        if not members:
            drawn_here = sizes[split] * len(files)
            raise UserError(
                f"the {split} split is empty: none of {drawn_here} drawn conversations opens with a valid reply",
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


def label_counts(conversations: Sequence[Conversation], rubric: Rubric) -> dict[str, dict[str, int]]:
    """How often each label stands in the tutor's replies, by label field, in the rubric's order."""
    replies = [
        rubric.parse(message["content"]).values
        for conversation in conversations
        for message in conversation.messages[1::2]
    ]
    counts = {field.key: Counter(reply[field.key] for reply in replies) for field in rubric.label_fields}
    return {field.key: {label: counts[field.key][label] for label in field.labels} for field in rubric.label_fields}


def leaks(splits: dict[str, list[Conversation]]) -> dict[str, dict[str, int]]:
    """How many test conversations share their problem with a training split."""
    report = {}
    for split in ("sft", "dpo"):
        known = {conversation.problem for conversation in splits[split]}
        shared = [conversation for conversation in splits["test"] if conversation.problem in known]
        report[f"test_shares_problem_with_{split}"] = {"conversations": len(shared), "of": len(splits["test"])}
    return report
