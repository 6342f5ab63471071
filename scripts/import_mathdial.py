"""Turn MathDial's JSON lines into a conversation file.

Reads   MathDial's JSON lines (arXiv 2305.14536) and a rubric of one label field, the teacher's move
Writes  a conversation file, and on request a report; prints how many rows were used and why others were not

    python scripts/import_mathdial.py mathdial.jsonl --output my-data/mathdial-dataset-1.json
"""

import argparse
from pathlib import Path

from pedalign.artifacts import read_text, write_json, write_records
from pedalign.errors import UserError, run
from pedalign.mathdial import conversations
from pedalign.rubric import load_rubric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    records, rejected = conversations(read_text(args.lines).split("\n"), rubric)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items())) or "none"
    if not records:
        raise UserError(f"{args.lines}: no usable row; rejected: {reasons}", "the format is MathDial's JSON lines")
    write_records(args.output, records)
    if args.report:
        write_json(args.report, {"source": str(args.lines), "conversations": len(records), "rejected": rejected})
    print(f"{args.output}: {len(records)} conversations; rows rejected: {reasons}")


if __name__ == "__main__":
    run(main)
