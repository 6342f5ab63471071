"""Draws the SFT, DPO and test splits, and reports what was drawn, dropped and shared."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import sha256
from pedalign.core.errors import UserError
from pedalign.core.json_stream import Lazy, Stored
from pedalign.data.conversations import (
    Conversation,
    Cut,
    RawConversation,
    Reader,
    clean,
    read_conversations,
    turn_reader,
)
from pedalign.data.leak_free import ProblemCounts, assign, even_counts
from pedalign.data.paper_rules import INSTRUCTIONS_END
from pedalign.data.reply_defects import Reason, Tally, explain
from pedalign.data.rubric import Rubric
from pedalign.data.spellings import Spelled, listed
from pedalign.data.split_warnings import warnings

SPLITS = ("sft", "dpo", "test")


@dataclass(frozen=True)
class SplitSettings:
    """How many conversations are drawn per file for each split, how, and from which seed.

    `method`: "random", as in the paper, or "leak_free": all conversations about a problem are in one split.
    `paper_rules`: a file with too few conversations gives all it has, so that the test split gets fewer (else the file
    is refused), and replies are read as the paper's scripts read them. `min_turns`: 2 for conversations of more than
    two turns, student's and tutor's together, as in the paper; 1 for those of one reply too.
    """

    sft: int
    dpo: int
    test: int
    seed: int
    method: str = "random"
    paper_rules: bool = False
    min_turns: int = 2

    @property
    def sizes(self) -> dict[str, int]:
        return {split: getattr(self, split) for split in SPLITS}


class EmptySplit(UserError):
    """No drawn conversation of a split can be used; `account` is the report of the draw so far."""

    def __init__(self, problem: str, remedy: str, account: dict[str, Any]) -> None:
        super().__init__(problem, remedy)
        self.account = account


def dataset_files(folder: Path, dataset: str) -> list[Path]:
    """`<dataset>-dataset-<n>.json` or `.jsonl` of a folder in the order of n.

    Raises UserError if there is none, or two of one number.
    """
    pattern = re.compile(rf"{re.escape(dataset)}-dataset-([0-9]+)\.jsonl?")
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
    for (number, path), (next_number, other) in pairwise(found):
        if number == next_number:
            raise UserError(f"{path} and {other.name} have one number", "give each file a number of its own")
    return [path for _, path in found]


def perplexity_file(folder: Path, dataset: str) -> Path:
    """`<dataset>-dataset-ppl.json` or `.jsonl` of a folder. Raises UserError if neither is there, or both are."""
    path = folder / f"{dataset}-dataset-ppl.json"
    lines = path.with_suffix(".jsonl")
    if path.is_file() and lines.is_file():
        raise UserError(f"{path} and {lines.name} are both there", "remove one of them: there is one file of pairs")
    if lines.is_file():
        return lines
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, so there are no pairs of replies to compute a perplexity on",
            "put it there (each conversation ends in two replies to one history), or do without perplexity.json",
        )
    return path


def draw(
    files: Sequence[Path], rubric: Rubric, settings: SplitSettings
) -> tuple[dict[str, Sequence[Conversation]], dict[str, Any]]:
    """Draw conversations from each file for each split, then read their replies and cut where one is not valid.

    Returns the splits, whose conversations are in a temporary file, and the report on them (`splits.json`).
    Raises UserError where a file has too few conversations (but not under the paper's rules), or a split is empty.
    """
    reader = turn_reader(rubric, settings.paper_rules)
    report: dict[str, Any] = {
        "seed": settings.seed,
        "method": settings.method,
        "paper_rules": settings.paper_rules,
        "min_turns": settings.min_turns,
        "wanted_per_file": settings.sizes,
        "simulated": 0,
        # Student turns that lost instructions before "Student: ", and those that keep this mark as the student's words.
        "instructions": {"taken_off": 0, "kept": 0},
        "files": [],
        "splits": {},
        "cut": [],
        "dropped": [],
        "reasons": [],
        "read_as": {},  # labels and field names of drawn conversations that the rubric writes another way
        "warnings": [],
    }
    eligible = []
    for path in files:
        lengths = [len(raw.texts) for raw in read_conversations(path, paper_rules=settings.paper_rules)]
        eligible.append(sum(length > settings.min_turns for length in lengths))
        counts = {"conversations": len(lengths), "eligible": eligible[-1]}
        report["files"].append({"file": path.name, "sha256": sha256(path), **counts})
        if not settings.paper_rules:
            _check_enough(path, eligible[-1], settings, lengths.count(2))
    if settings.method == "leak_free":
        drawn, report["leak_free"] = _draw_leak_free(files, rubric, settings, reader, report)
    else:
        drawn = _draw_random(eligible, settings)
    tally = Tally()
    splits = _cleaned(files, drawn, reader, settings, report, tally)
    report["cut_by_reason"] = dict(Counter(cut["defect"] for cut in report["cut"]))
    report["reasons"] = tally.listed()
    for split, conversations in splits.items():
        if not conversations:
            raise _empty(split, settings, report, tally)
        report["splits"][split] = _account(conversations, rubric)
        report["splits"][split]["wanted"] = settings.sizes[split] * len(files)
    report["leaks"] = leaks(splits)
    report["warnings"] = list(warnings(sum(len(ids) for by_split in drawn for ids in by_split.values()), report, tally))
    return splits, report


def _empty(split: str, settings: SplitSettings, report: dict[str, Any], tally: Tally) -> EmptySplit:
    dropped = sum(one["split"] == split for one in report["dropped"])
    problem = f"the {split} split is empty: "
    if not dropped or not tally.entries:
        problem += f"the files hold fewer conversations of {_enough(settings)} than {_listed(settings.sizes)}"
        return EmptySplit(problem, "lower the sizes under 'split' in config.yaml", report)
    problem += (
        f"none of {dropped:,} drawn conversations opens with a valid reply; of all splits, the {tally.commonest()}"
    )
    return EmptySplit(problem, tally.remedy(), report)


def _enough(settings: SplitSettings) -> str:
    return f"more than {('one turn', 'two turns')[settings.min_turns - 1]}"


def _check_enough(path: Path, eligible: int, settings: SplitSettings, of_one_reply: int) -> None:
    sizes = settings.sizes
    wanted = sum(sizes.values())
    if eligible < wanted:
        single = (
            f"; {of_one_reply} of one reply count with min_turns: 1" if settings.min_turns > 1 and of_one_reply else ""
        )
        raise UserError(
            f"{path}: {wanted} conversations wanted ({_listed(sizes)}), "
            f"{eligible} have {_enough(settings)}: {wanted - eligible} are missing",
            f"lower the sizes under 'split' in config.yaml, or add conversations{single}",
        )


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {size}" for split, size in sizes.items())


def _eligible(path: Path, reader: Reader, min_turns: int) -> Iterator[RawConversation]:
    """The conversations of a file that can be drawn: those of more than two entries, or of two with `min_turns` 1."""
    return (raw for raw in read_conversations(path, paper_rules=reader.paper_rules) if len(raw.texts) > min_turns)


def _conversation(record: dict[str, Any]) -> Conversation:
    return Conversation(record["id"], tuple(record["messages"]), record["problem"])


Drawn = list[dict[str, list[int]]]  # for each file, split → numbers of its eligible conversations, from 0


def _draw_random(eligible: Sequence[int], settings: SplitSettings) -> Drawn:
    """Draw as the paper's code does (arXiv 2402.05000, preprocess_sft_data.py).

    Python's `random` is seeded once. For each file in order, one call draws a sample for all splits together from the
    eligible conversations in file order; it is divided in the order SFT, DPO, test.
    """
    rng = random.Random(settings.seed)
    wanted = sum(settings.sizes.values())
    drawn = []
    for count in eligible:
        sample = iter(rng.sample(range(count), min(wanted, count)))
        drawn.append({split: list(islice(sample, size)) for split, size in settings.sizes.items()})
    return drawn


def _draw_leak_free(
    files: Sequence[Path],
    rubric: Rubric,
    settings: SplitSettings,
    reader: Reader,
    report: dict[str, Any],
) -> tuple[Drawn, dict[str, Any]]:
    """Draw each split from the conversations about its own problems. Returns also the report on the assignment."""
    members: dict[str, list[list[int]]] = {}  # problem → for each file, numbers of its eligible conversations
    labels: dict[str, Counter[tuple[str, str]]] = {}
    unusable = Tally()
    for number, path in enumerate(files):
        for at, raw in enumerate(_eligible(path, reader, settings.min_turns)):
            conversation, cut = clean(raw, reader)
            if conversation.n_turns:
                problem = conversation.problem
                members.setdefault(problem, [[] for _ in files])[number].append(at)
                labels.setdefault(problem, Counter()).update(_labels(conversation, rubric))
            elif cut:
                unusable.add(_reason(raw, cut, rubric), path.name, raw.id, cut.turn, raw.texts[1])
    known = [(field.key, label) for field in rubric.label_fields for label in field.labels]
    problems = {
        problem: ProblemCounts(tuple(map(len, by_file)), {label: labels[problem][label] for label in known})
        for problem, by_file in members.items()
    }
    report["reasons"] = unusable.listed()
    if not problems:
        problem = f"no conversation opens with a valid reply; {unusable.commonest()}"
        raise EmptySplit(problem, unusable.remedy(), report)
    try:
        assignment = assign(problems, settings.sizes)
    except UserError as error:
        lost = sum(entry["conversations"] for entry in report["reasons"])
        if not lost:
            raise
        problem = f"{error.problem}. {lost:,} conversations open with no valid reply; {unusable.commonest()}"
        raise UserError(problem, error.remedy) from None
    rng = random.Random(settings.seed)
    drawn: Drawn = [{} for _ in files]
    for split, size in settings.sizes.items():
        own = [problem for problem, home in assignment.splits.items() if home == split]
        rng.shuffle(own)  # as even_counts takes more from the first of equal problems
        counts = even_counts([problems[problem].conversations for problem in own], size)
        for file, by_split in enumerate(drawn):
            taken = [
                at
                for problem, count in zip(own, counts, strict=True)
                for at in rng.sample(members[problem][file], count[file])
            ]
            rng.shuffle(taken)
            by_split[split] = taken
    return drawn, {
        "problems": {split: list(assignment.splits.values()).count(split) for split in settings.sizes},
        "label_share_difference": assignment.difference,
        "gap": assignment.gap,
    }


def _reason(raw: RawConversation, cut: Cut, rubric: Rubric) -> Reason:
    return explain(raw.texts[2 * cut.turn + 1], rubric, cut.defect, cut.detail)


def _cleaned(
    files: Sequence[Path],
    drawn: Drawn,
    reader: Reader,
    settings: SplitSettings,
    report: dict[str, Any],
    tally: Tally,
) -> dict[str, Sequence[Conversation]]:
    """The drawn conversations, each cut where a reply is not valid; cuts are added to the report and the tally."""
    store, read_as = Stored(), Counter[Spelled]()
    places: dict[str, list[int]] = {split: [] for split in SPLITS}  # in the store
    for number, (path, by_split) in enumerate(zip(files, drawn, strict=True), start=1):
        wanted = {at for members in by_split.values() for at in members}
        found: dict[int, tuple[str, Cut | None, int | None]] = {}  # id, where it was cut, place in the store
        for at, raw in enumerate(_eligible(path, reader, settings.min_turns)):
            if at in wanted:
                report["simulated"] += raw.simulated
                conversation, cut = clean(raw, reader)
                _count_instructions(raw, reader, report["instructions"])
                identity = f"{number}:{raw.id}"
                found[at] = identity, cut, len(store) if conversation.n_turns else None
                read_as.update(conversation.read_as)
                if conversation.n_turns:
                    one = {"id": identity, "messages": conversation.messages, "problem": conversation.problem_id}
                    store.append(one)
                if cut:
                    reply = raw.texts[2 * cut.turn + 1]
                    tally.add(_reason(raw, cut, reader.rubric), path.name, raw.id, cut.turn, reply)
        for split, members in by_split.items():
            for identity, cut, place in map(found.__getitem__, members):
                if cut:
                    report["cut"].append({"split": split, "id": identity, **vars(cut)})
                if place is None:
                    report["dropped"].append({"split": split, "id": identity, "reason": "no valid reply"})
                else:
                    places[split].append(place)
    report["read_as"] = listed(read_as)
    return {split: Lazy(lambda at: _conversation(store[at]), which) for split, which in places.items()}


def _count_instructions(raw: RawConversation, reader: Reader, counts: dict[str, int]) -> None:
    for turn, text in enumerate(raw.texts[::2]):
        read = reader.student(text, turn)
        counts["taken_off"] += read != text
        counts["kept"] += INSTRUCTIONS_END in read


def _labels(conversation: Conversation, rubric: Rubric) -> Iterator[tuple[str, str]]:
    """(key, label) of each label field of each tutor reply."""
    for message in conversation.messages[1::2]:
        values = rubric.parse(message["content"]).values
        for field in rubric.label_fields:
            yield field.key, values.get(field.key, "")


def _account(members: Iterable[Conversation], rubric: Rubric) -> dict[str, Any]:
    turns: list[int] = []
    problems: Counter[str] = Counter()
    labels: Counter[tuple[str, str]] = Counter()
    for member in members:
        turns.append(member.n_turns)
        problems[member.problem] += 1
        labels.update(_labels(member, rubric))
    return {
        "conversations": len(turns),
        "tutor_turns": sum(turns),
        "of_one_turn": turns.count(1),
        "problems": len(problems),
        "conversations_per_problem": {"fewest": min(problems.values()), "most": max(problems.values())},
        "labels": {f.key: {label: labels[f.key, label] for label in f.labels} for f in rubric.label_fields},
    }


def leaks(splits: Mapping[str, Iterable[Conversation]]) -> dict[str, dict[str, int]]:
    """How many test conversations share their problem with a training split."""
    report = {}
    problems = [conversation.problem for conversation in splits["test"]]
    for split in ("sft", "dpo"):
        known = {conversation.problem for conversation in splits[split]}
        shared = sum(problem in known for problem in problems)
        report[f"test_shares_problem_with_{split}"] = {"conversations": shared, "of": len(problems)}
    return report
