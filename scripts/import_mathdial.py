"""Turn MathDial's JSON lines into a conversation file.

Reads   MathDial's JSON lines (arXiv 2305.14536) and a rubric of one label field, the teacher's move
Writes  a conversation file, and on request a report; prints how many rows were used, rejected and cut, and why

    python scripts/import_mathdial.py mathdial.jsonl --output my-data/mathdial-dataset-1.json
"""

from pathlib import Path

from pedalign.core.artifacts import read_text, write_json, write_records
from pedalign.core.errors import UserError, argument_parser, run
from pedalign.data.rubric import load_rubric
from pedalign.data.sources.mathdial import conversations


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("lines", type=Path, help="MathDial's JSON lines")
    parser.add_argument("--rubric", type=Path, default=Path("datasets/rubrics/mathdial.yaml"))
    parser.add_argument("--output", type=Path, required=True, help="<dataset>-dataset-<n>.json")
    parser.add_argument("--report", type=Path, help="JSON with the counts")
    args = parser.parse_args()

    rubric = load_rubric(args.rubric)
    if len(rubric.label_fields) != 1 or len(rubric.fields) != 2:
        raise UserError(
            f"{args.rubric}: MathDial has one label, the move, and the text; the rubric {rubric.name} has other fields",
            "use datasets/rubrics/mathdial.yaml",
        )
    imported = conversations(read_text(args.lines).split("\n"), rubric)
    rejected, cut = _counted(imported.rejected), _counted(imported.cut)
    if not imported.records:
        raise UserError(f"{args.lines}: no usable row; rejected: {rejected}", "the format is MathDial's JSON lines")
    write_records(args.output, imported.records)
    if args.report:
        counts = {"conversations": len(imported.records), "rejected": imported.rejected, "cut": imported.cut}
        write_json(args.report, {"source": str(args.lines), **counts})
    print(f"{args.output}: {len(imported.records)} conversations; rows rejected: {rejected}; cut short: {cut}")


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"


if __name__ == "__main__":
    run(main)
