"""Turn conversations in another format into a conversation file.

Reads   a file in one of the formats in pedalign/data/sources/importers.py (mathdial: MathDial's JSON lines,
        arXiv 2305.14536; phys300: the conversations in physics of arXiv 2309.12161), and a rubric that fits its labels
Writes  a conversation file, and on request a report; prints how many rows were used, rejected and cut, and why

    python scripts/import_conversations.py mathdial.jsonl --format mathdial --output my-data/mathdial-dataset-1.json
"""

from pathlib import Path

from pedalign.core.artifacts import read_text, write_json, write_records
from pedalign.core.errors import UserError, argument_parser, nearest, run
from pedalign.data.rubric import load_rubric
from pedalign.data.sources.importers import IMPORTERS


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("file", type=Path, help="in the given format")
    parser.add_argument("--format", required=True, help=", ".join(IMPORTERS))
    parser.add_argument("--rubric", type=Path, help="default: the format's own")
    parser.add_argument("--output", type=Path, required=True, help="<dataset>-dataset-<n>.json")
    parser.add_argument("--report", type=Path, help="JSON with the counts")
    args = parser.parse_args()

    if args.format not in IMPORTERS:
        raise UserError(f"--format: is '{args.format}'", nearest(args.format, IMPORTERS))
    importer = IMPORTERS[args.format]
    rubric = load_rubric(args.rubric or Path(importer.rubric))
    imported = importer.read(read_text(args.file).split("\n"), rubric)
    rejected, cut, changes = map(_counted, (imported.rejected, imported.cut, imported.changes))
    if not imported.records:
        raise UserError(f"{args.file}: no usable row; rejected: {rejected}", f"the format is {importer.described}")
    write_records(args.output, imported.records)
    if args.report:
        counts = {"conversations": len(imported.records), "rejected": imported.rejected, "cut": imported.cut}
        write_json(args.report, {"source": str(args.file), **counts, "changes": imported.changes})
    print(f"{args.output}: {len(imported.records)} conversations; rows rejected: {rejected}; cut short: {cut}")
    if imported.changes:
        print(f"turns left out or changed: {changes}")


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"


if __name__ == "__main__":
    run(main)
