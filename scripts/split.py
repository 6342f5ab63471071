r"""Draw the SFT, DPO and test splits from conversation files.

Reads   <dataset>-dataset-<n>.json, in the order given, and the rubric
Writes  <dataset>-sft.json, -dpo.json, -test.json (conversations), -dpo_formatted.json, -test_formatted.json
        (one row per tutor turn) and splits.json (what was drawn, dropped and shared) into the output folder; if a
        split is empty, only splits-failed.json, which lists the reasons

    python scripts/split.py datasets/simulated/bio-dataset-[123].json --rubric datasets/rubrics/class.yaml \
        --dataset bio --output results/data --settings split.yaml
"""

from pathlib import Path

from pedalign.core.artifacts import read_json, write_json, write_records
from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.provenance import record, verified
from pedalign.core.settings import add_settings_argument, read_settings
from pedalign.data.conversations import formatted_rows
from pedalign.data.rubric import load_rubric
from pedalign.data.sources.published import check_published
from pedalign.data.spellings import told
from pedalign.data.splits import EmptySplit, SplitSettings, draw


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("conversations", type=Path, nargs="+")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_settings_argument(parser, SplitSettings)
    parser.add_argument("--imported", type=Path, help="the report of the import that made the conversation files")
    parser.add_argument("--published", action="store_true", help="the files must be the paper's, bit for bit")
    args = parser.parse_args()

    if args.published:
        check_published(args.conversations)
    settings = read_settings(SplitSettings, args.settings)
    inputs = verified(*args.conversations, args.rubric, *filter(None, [args.imported]))
    failed = args.output / "splits-failed.json"
    failed.unlink(missing_ok=True)
    try:
        splits, report = draw(args.conversations, load_rubric(args.rubric), settings)
    except EmptySplit as error:
        write_json(failed, error.account)
        raise UserError(error.problem, f"{error.remedy}; all reasons: {failed}") from None
    if args.imported:
        report["imported"] = read_json(args.imported)
    written = [args.output / "splits.json"]
    for split, conversations in splits.items():
        written.append(args.output / f"{args.dataset}-{split}.json")
        write_records(written[-1], (one.record() for one in conversations))
        found = report["splits"][split]
        per_problem = "{fewest} to {most} each".format_map(found["conversations_per_problem"])
        wanted = f" of {found['wanted']} wanted" if len(conversations) < found["wanted"] else ""
        about = f"{len(conversations)}{wanted} conversations about {found['problems']} problems ({per_problem})"
        print(f"- {split}: {about}, {found['tutor_turns']} tutor turns")
    for split in ("dpo", "test"):
        written.append(args.output / f"{args.dataset}-{split}_formatted.json")
        write_records(written[-1], formatted_rows(splits[split], settings.min_turns))
    write_json(written[0], report)
    record(written, inputs, {"dataset": args.dataset, **vars(settings)})
    print(f"- cut at a reply that is not valid: {report['cut_by_reason'] or 'none'}; details in splits.json")
    if spelled := told(report["read_as"]):
        print(f"- {spelled}; all in splits.json")
    for name, shared in report["leaks"].items():
        print(f"- {name}: {shared['conversations']} of {shared['of']} test conversations")
    for warning in report["warnings"]:
        print(f"warning: {warning}")


if __name__ == "__main__":
    run(main)
