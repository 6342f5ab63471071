"""Coverage-guided fuzzing of what reads text that no one can trust, by atheris.

    python tests/fuzz/fuzz.py reply --inputs 1000000

It ends with status 0 when all inputs were read without a finding: an error other than the one that is meant for users,
an input that takes a second, or memory beyond a bound. A finding is written to tests/fuzz/found/<target>-….
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import yaml

ROOT = Path(__file__).parents[2]
FOUND = Path(__file__).parent / "found"
SECONDS, MEGABYTES = 1, 1024

with atheris.instrument_imports(include=["pedalign"]):
    sys.path.insert(0, str(ROOT / "scripts"))
    from pedalign import config as configuration
    from pedalign import mathdial, paper
    from pedalign.artifacts import write_records
    from pedalign.conversation import clean, read_conversations
    from pedalign.errors import UserError
    from pedalign.problems import read_problems
    from pedalign.rubric import load_rubric

CLASS = load_rubric(ROOT / "datasets/rubrics/class.yaml")
MATHDIAL = load_rubric(ROOT / "datasets/rubrics/mathdial.yaml")
WORK = Path(tempfile.mkdtemp())
CONFIG = (ROOT / "config.yaml").read_text(encoding="utf-8")


def any_text(data: bytes) -> str:
    """Half surrogate pairs too: they come out of JSON."""
    return data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace") if _decodes(data) else repr(data)


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def reply(data: bytes) -> None:
    """What a model says."""
    text = any_text(data)
    for rubric in (CLASS, MATHDIAL):
        canonical = rubric.canonical(text)
        if canonical.defect is None:
            assert rubric.canonical(canonical.text) == canonical
            canonical.text.encode()
    paper.read_literal(text)


def conversations(data: bytes) -> None:
    """A conversation file."""
    path = WORK / "own-dataset-1.json"
    path.write_bytes(data)
    for raw in read_conversations(path):
        conversation, _ = clean(raw, CLASS.canonical)
        json.dumps(conversation.record(), ensure_ascii=False).encode()


def importer(data: bytes) -> None:
    """MathDial's JSON lines."""
    imported = mathdial.conversations(any_text(data).split("\n"), MATHDIAL)
    if imported.records:
        write_records(WORK / "mathdial-dataset-1.json", imported.records)
        list(read_conversations(WORK / "mathdial-dataset-1.json"))


def bank(data: bytes) -> None:
    """A problem bank, as YAML and as CSV."""
    for name in ("bank.yaml", "bank.csv"):
        (WORK / name).write_bytes(data)
        try:
            problems, _ = read_problems(WORK / name)
        except UserError:
            continue
        for problem in problems:
            problem.text.encode()
            "".join(one.hint for one in problem.subproblems).encode()


def config(data: bytes) -> None:
    """A file of settings, over those of config.yaml as Snakemake puts them."""
    try:
        changes = yaml.load(data, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, KeyError):  # Snakemake's to tell
        return
    whole = yaml.load(CONFIG, yaml.CSafeLoader)
    if isinstance(changes, dict):
        _update(whole, changes)
        configuration.validate(whole)
        list(configuration.runs(whole))
        configuration.adopted(whole)


def _update(whole: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(whole.get(key), dict):
            _update(whole[key], value)
        else:
            whole[key] = value


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (reply, conversations, importer, bank, config)
}


def seeds(target: str) -> list[bytes]:
    """Small real inputs to begin with."""
    values = {field.name: next(iter(field.labels), "Go on.") for field in CLASS.fields}
    moves = {field.name: next(iter(field.labels), "Go on.") for field in MATHDIAL.fields}
    talk = {"id": "a", "conversations": [{"from": "human", "value": "Q. Why?"}, {"from": "gpt", "value": str(values)}]}
    row = {
        **{"qid": 1, "question": "2 + 2?", "student_incorrect_solution": "5"},
        "conversation": "Teacher: (focus) Look again.|EOM|Steven: 4|EOM|Teacher: (generic) Good.",
    }
    problem = yaml.safe_load((ROOT / "datasets/bio-problems.yaml").read_text(encoding="utf-8"))[0]
    published = json.dumps(problem).replace('"', '""')
    texts = {
        "reply": [json.dumps(values), repr(values), repr(moves)],
        "conversations": [json.dumps([talk, {**talk, "id": 2}]), json.dumps([talk], indent=1)],
        "importer": [json.dumps(row), f"{json.dumps(row)}\n{json.dumps({**row, 'qid': 'b'})}"],
        "bank": [
            yaml.safe_dump([problem]),
            "- 2001-01-01\n- 1:20\n- &x [1.5e3, 0x1F, ~]\n- {a: *x, <<: {b: yes}}\n",
            f'problems\n"{published}"\n',
        ],
        "config": [
            "splits: {sft: 10, dpo: 4, test: 4}",
            "runs:\n  - {model: tiny, algorithm: [dpo, ipo], beta: [0.1, 1], seed: [1, 2]}",
            "models: {own: {path: org/name, sft: {epochs: 1}, template: mistral}}",
            "preferences: {samples: 4, temperature: 1.0, reject: worst, balance: {field: action, most: 2}}",
            "results: results-own\nsource: own\nseed: 1",
        ],
    }
    return [text.encode() for text in texts[target]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    read = TARGETS[args.target]

    def one_input(data: bytes) -> None:
        try:
            read(data)
        except UserError as error:
            assert len(str(error).splitlines()) == 2
            str(error).encode()

    corpus = WORK / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(args.target)):
        (corpus / str(number)).write_bytes(seed)
    FOUND.mkdir(exist_ok=True)
    limits = [f"-runs={args.inputs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", "-max_len=8192"]
    finding = f"-artifact_prefix={FOUND}/{args.target}-"
    atheris.Setup([sys.argv[0], *limits, f"-seed={args.seed}", finding, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
