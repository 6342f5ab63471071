"""Coverage-guided fuzzing of what reads text that no one can trust, by atheris.

    python tests/fuzz/fuzz.py reply --inputs 1000000
    python tests/fuzz/fuzz.py reply --found            # what was found once, again

It ends with status 0 when all inputs were read without a finding: an error other than the one that is meant for users,
half a second of the processor for an input of 8 KB (settings: a second, 2 KB), or memory beyond a bound. A finding is
written to tests/fuzz/found and belongs into the repository once it is mended: the tests read all that lies there.
"""

import argparse
import ast
import contextlib
import csv
import io
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import yaml

ROOT = Path(__file__).parents[2]
FOUND = Path(__file__).parent / "found"
SECONDS, MEGABYTES = 0.5, 1024  # of the processor and of memory that an input may take

with atheris.instrument_imports(include=["pedalign"]):
    sys.path.insert(0, str(ROOT / "scripts"))
    from pedalign.core.artifacts import write_records
    from pedalign.core.errors import UserError
    from pedalign.data import paper_rules
    from pedalign.data.conversations import Reader, clean, formatted_rows, read_conversations
    from pedalign.data.rubric import load_rubric
    from pedalign.data.sources import chats, mathdial, phys300
    from pedalign.data.sources.problem_bank import read_problems

CLASS = load_rubric(ROOT / "datasets/rubrics/class.yaml")
MATHDIAL = load_rubric(ROOT / "datasets/rubrics/mathdial.yaml")
PHYSICS = load_rubric(ROOT / "datasets/rubrics/physics.yaml")
WORK = Path(tempfile.mkdtemp())
GOLD = CLASS.serialize({field.key: next(iter(field.labels), "Go on.") for field in CLASS.fields})


def any_text(data: bytes) -> str:
    """Half surrogate pairs too: they come out of JSON."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return repr(data)


def reply(data: bytes) -> None:
    """What a model says, and a tutor turn of a conversation file."""
    text = any_text(data)
    for rubric in (CLASS, MATHDIAL, PHYSICS):
        spelled = rubric.canonical(text, spellings=True)
        assert spelled.defect or rubric.canonical(spelled.text).text == spelled.text
        canonical = rubric.canonical(text)
        if canonical.defect is None:
            assert rubric.canonical(canonical.text) == canonical
            canonical.text.encode()
            cut = rubric.parse(canonical.text[: len(data) % len(canonical.text)])
            assert cut.defect == "unparseable" and cut.values.items() <= rubric.parse(canonical.text).values.items()
        paper_rules.canonical(text, rubric).text.encode("utf-8", "surrogatepass")
    paper_rules.mistake(GOLD, text, CLASS)
    paper_rules.mistake(text, GOLD, CLASS)


def conversations(data: bytes) -> None:
    """A conversation file."""
    path = WORK / "own-dataset-1.json"
    path.write_bytes(data)
    usable = [clean(raw, Reader(CLASS))[0] for raw in read_conversations(path)]
    assert all(one.problem == one.problem.casefold() for one in usable if one.messages and one.problem_id is None)
    json.dumps(list(formatted_rows(usable)), ensure_ascii=False).encode()


def importer(data: bytes) -> None:
    """Rows of MathDial, chats, and conversations in physics; only MathDial's importer looks at the labels."""
    for read in (mathdial.conversations, chats.messages, chats.sharegpt, phys300.conversations):
        rubric = PHYSICS if read is phys300.conversations else MATHDIAL
        with contextlib.suppress(UserError):
            imported = read(any_text(data).split("\n"), rubric)
            write_records(WORK / "raw-dataset-1.json", imported.records)
            for raw in read_conversations(WORK / "raw-dataset-1.json"):
                assert clean(raw, Reader(rubric))[1] is None or read is not mathdial.conversations


def bank(data: bytes) -> None:
    """A problem bank, as YAML and as CSV."""
    for name in ("bank.yaml", "bank.csv"):
        (WORK / name).write_bytes(data)
        try:
            problems, _ = read_problems(WORK / name)
        except UserError as error:
            readable(error)
            continue
        for problem in problems:
            problem.text.encode("utf-8", "surrogatepass")
            "".join(one.hint for one in problem.subproblems).encode("utf-8", "surrogatepass")


def readable(error: UserError) -> None:
    assert len(str(error).splitlines()) == 2
    assert len(str(error)) < 100_000
    str(error).encode()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (reply, conversations, importer, bank)
}


def seeds(target: str) -> list[bytes]:
    """Small real inputs to begin with."""
    moves = {field.name: next(iter(field.labels), "Go on.") for field in MATHDIAL.fields}
    talk = {"id": "a", "conversations": [{"from": "human", "value": "Q. Why?"}, {"from": "gpt", "value": GOLD}]}
    row = {
        **{"qid": 1, "question": "2 + 2?", "student_incorrect_solution": "5"},
        "conversation": "Teacher: (focus) Look again.|EOM|Steven: 4|EOM|Teacher: (generic) Good.",
    }
    chat = {
        "conversations": talk["conversations"],
        "messages": [{"role": "user", "content": ["Q. Why?"]}, {"role": "assistant", "content": json.loads(GOLD)}],
    }
    problem = {
        "problem": "Why?",
        "subproblems": [
            {name: f"{name} {at}" for name in ("question", "answer", "incorrect_response", "hint", "feedback")}
            for at in range(2)
        ],
    }
    published = json.dumps(problem).replace('"', '""')
    texts = {
        "reply": [GOLD, repr(json.loads(GOLD)), repr(moves)],
        "conversations": [json.dumps([talk, {**talk, "id": 2}]), json.dumps([talk], indent=1)],
        "importer": [json.dumps(row), f"{json.dumps(row)}\n{json.dumps({**row, 'qid': 'b'})}", json.dumps(chat)],
        "bank": [
            yaml.safe_dump([problem]),
            "- 2001-01-01\n- 1:20\n- &x [1.5e3, 0x1F, ~]\n- {a: *x, <<: {b: yes}}\n",
            f'problems\n"{published}"\n',
        ],
    }
    return [text.encode() for text in texts[target]]


# What stands in inputs that go wrong: syntax, marks of the formats, characters that are no text, values of other kinds.
MARKS = [*"{}[]()'\"\\:,|=+-@#&*!%<> \n\r\t", *("\0", "\ud800", "\u202e", "\ufeff", "é", "\u2028", "<script>", "=1+1")]
MARKS += [
    "Q.",
    "Student: ",
    "|EOM|",
    "Teacher: (",
    "(focus)",
    "\\u",
    "\\ud800",
    "N/A",
    "None",
    "null",
    "---\n",
    "<<",
    "\n\n",
]
VALUES = ["", None, True, 0, -1, 1e308, float("nan"), 10**30, [], {}, [[]], {"": ""}]


def repeated(text: str, draw: random.Random) -> str:
    """A mark or a piece of the text once more, or thousands of times, at which slow ways of reading are slow."""
    at, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
    piece = draw.choice([draw.choice(MARKS), draw.choice(MARKS), text[at : min(end, at + 40)]])
    return text[:at] + piece * draw.choice([1, 2, 8, 100, 2 ** draw.randrange(15)]) + text[at:]


def other(value: Any, draw: random.Random) -> Any:
    """The value with one thing in it changed: a text, a key, a member gone, doubled or of another kind."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        match draw.randrange(10):
            case 0:
                return {name: one for name, one in value.items() if name != key}
            case 1:
                return {(repeated(str(name), draw) if name == key else name): one for name, one in value.items()}
            case _:
                return {name: other(one, draw) if name == key else one for name, one in value.items()}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        match draw.randrange(10):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + [value[at]] * draw.choice([2, 3, 50]) + value[at + 1 :]
            case _:
                return [*value[:at], other(value[at], draw), *value[at + 1 :]]
    if isinstance(value, str) and draw.random() < 0.8:
        return repeated(value, draw)
    return draw.choice(VALUES)


def in_its_format(target: str, data: bytes, draw: random.Random) -> bytes:
    """Another input of the same format. Raises ValueError, or what its reader does, where it is not of the format."""
    text = any_text(data)
    if target == "reply":
        value = other(json.loads(text) if draw.random() < 0.5 else ast.literal_eval(text), draw)
        changed = json.dumps(value, ensure_ascii=draw.random() < 0.5) if draw.random() < 0.5 else repr(value)
    elif target == "conversations":
        changed = json.dumps(other(json.loads(text), draw), ensure_ascii=draw.random() < 0.5)
    elif target == "importer":
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        lines[at] = json.dumps(other(json.loads(lines[at]), draw))
        changed = "\n".join(lines)
    elif target == "bank" and text.startswith("problems"):
        published = [json.dumps(other(json.loads(row[0]), draw)) for row in list(csv.reader(io.StringIO(text)))[1:]]
        changed = "problems\n" + "\n".join('"' + one.replace('"', '""') + '"' for one in published)
    else:
        changed = yaml.dump(other(yaml.load(text, yaml.CSafeLoader), draw), Dumper=yaml.CSafeDumper)
    return changed.encode("utf-8", "surrogatepass")


def mutation(target: str) -> Callable[[bytes, int, int], bytes]:
    """Changes of the format, repetitions, and libFuzzer's own changes of bytes."""

    def changed(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        kind = draw.random()
        try:
            if kind < 0.4:
                return in_its_format(target, bytes(data), draw)[:most]
            if kind < 0.5:
                return repeated(any_text(bytes(data)), draw).encode("utf-8", "surrogatepass")[:most]
        except (ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError):
            pass  # not of the format
        except (RecursionError, MemoryError, yaml.YAMLError, csv.Error):
            pass
        return atheris.Mutate(data, most)

    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", action="store_true", help="what was found once, again")
    args = parser.parse_args()

    read = TARGETS[args.target]

    def one_input(data: bytes) -> None:
        started = time.process_time()
        try:
            read(data)
        except UserError as error:
            readable(error)
        assert time.process_time() - started < (2 * SECONDS if args.target == "config" else SECONDS)

    if args.found:
        for path in sorted(FOUND.glob(f"{args.target}-*")):
            one_input(path.read_bytes())
            print(path.name)
        return

    os.fsync = lambda _: None  # nothing here needs to last
    corpus = WORK / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(args.target)):
        (corpus / str(number)).write_bytes(seed)
    limits = [
        f"-runs={args.inputs}",
        "-timeout=10",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={2048 if args.target == 'config' else 8192}",
    ]
    finding = f"-artifact_prefix={FOUND}/{args.target}-"
    options = [sys.argv[0], *limits, f"-seed={args.seed}", finding, str(corpus)]
    atheris.Setup(options, one_input, custom_mutator=mutation(args.target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
