"""Turn files in other formats into conversation files.

Reads   files in one of the formats in pedalign/data/sources/importers.py (class, mathdial, messages, phys300,
        sharegpt): a JSON list, JSON lines, or an object that holds the list; and a rubric that fits the labels
Writes  a conversation file for each, and on request a report with its provenance; prints how many rows were used,
        changed, cut and rejected, and why

    python scripts/import_conversations.py mathdial.jsonl --format mathdial --output my-data/mathdial-dataset-1.json
"""

from collections import Counter
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import read_text, write_json, write_records
from pedalign.core.errors import UserError, argument_parser, nearest, run
from pedalign.core.provenance import record, verified
from pedalign.core.told import DETAIL
from pedalign.data.rubric import Rubric, load_rubric
from pedalign.data.sources.imported import Imported
from pedalign.data.sources.importers import IMPORTERS, is_bank
from pedalign.data.sources.raw_rows import looks_of


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="in the given format")
    parser.add_argument("--format", required=True, help=", ".join(IMPORTERS))
    parser.add_argument("--rubric", type=Path, help="default: the format's own")
    parser.add_argument(
        "--output", type=Path, nargs="+", required=True, help="<dataset>-dataset-<n>.json for each file"
    )
    parser.add_argument("--report", type=Path, help="JSON with the counts")
    args = parser.parse_args()

    if args.format not in IMPORTERS:
        raise UserError(f"--format: is '{args.format}'", nearest(args.format, IMPORTERS))
    if len(args.files) != len(args.output):
        raise UserError(
            f"--output: names {len(args.output)} files for {len(args.files)} to read", "name one for each file"
        )
    rubric_file = args.rubric or Path(IMPORTERS[args.format].rubric)
    inputs, rubric = verified(*args.files, rubric_file), load_rubric(rubric_file)
    found = {path: converted(path, args.format, rubric) for path in args.files}
    for path, output in zip(args.files, args.output, strict=True):
        write_records(output, found[path].records)
        print(f"{DETAIL if args.report else ''}{output}: {told(found[path].counts)}")
    if args.report:
        files = [{"file": str(path), **one.counts} for path, one in found.items()]
        write_json(args.report, {"format": args.format, "files": files})
        record([*args.output, args.report], inputs, {"format": args.format})
        print(f"{args.report}: {told(total([one.counts for one in found.values()]))}")


def converted(path: Path, name: str, rubric: Rubric) -> Imported:
    """The conversations of a file. Raises UserError, with the format that the file seems to have, if it has none."""
    if IMPORTERS[name].banks and is_bank(path.name):
        raise UserError(f"{path}: is a problem bank", f"python scripts/simulate.py {path} makes conversations of it")
    lines = read_text(path).split("\n")
    try:
        imported = IMPORTERS[name].read(lines, rubric)
    except UserError as error:
        raise UserError(f"{path}: {error.problem}", error.remedy) from None
    if imported.records:
        return imported
    problem = f"{path}: no usable row; rejected: {reasons(imported.counts['rejected'])}"
    try:
        look = looks_of(lines)
    except UserError:  # not JSON that can be read
        look = None
    if look is None or look.importer == name:
        raise UserError(problem, f"the format {name} is {IMPORTERS[name].described}")
    remedy = f"the format is {look.importer}, not {name}" if look.importer else look.by_hand
    raise UserError(f"{problem}; it looks like {look.what}", remedy)


def told(counts: dict[str, Any]) -> str:
    rows = f"{counts['conversations']} conversations; rows rejected: {reasons(counts['rejected'])}"
    return f"{rows}; cut short: {reasons(counts['cut'])}; changed: {reasons(counts['changed'])}"


def reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


def total(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all files together."""
    summed: dict[str, Any] = {"conversations": sum(one["conversations"] for one in counts)}
    for name in ("changed", "cut", "rejected"):
        summed[name] = sum((Counter(one[name]) for one in counts), Counter())
    return summed


if __name__ == "__main__":
    run(main)
