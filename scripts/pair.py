r"""Build the preference dataset from the fine-tuned tutor's mistakes on the DPO split.

Reads   the formatted DPO split, the SFT tutor's responses.csv on it, the rubric
Writes  preferences.json: prompt, chosen, rejected (TRL's preference format) with ids and reason, and how many pairs
        each setting leaves

    python scripts/pair.py results/data/bio-dpo_formatted.json results/tiny/sft/dpo/responses.csv \
        --rubric datasets/rubrics/class.yaml --output results/tiny/preferences.json \
        --counts results/tiny/preferences_counts.json --settings pair.yaml
"""

from pathlib import Path

from pedalign.core.artifacts import write_columns, write_json
from pedalign.core.errors import argument_parser, run
from pedalign.core.json_stream import Table, read_records
from pedalign.core.provenance import record, verified
from pedalign.core.settings import add_settings_argument, read_settings
from pedalign.data.pair_warnings import one_sided
from pedalign.data.preferences import PreferenceSettings, preference_pairs
from pedalign.data.responses import READ
from pedalign.data.rubric import load_rubric


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("rows", type=Path, help="the formatted DPO split")
    parser.add_argument("responses", type=Path, help="responses.csv")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    add_settings_argument(parser, PreferenceSettings)
    args = parser.parse_args()

    settings = read_settings(PreferenceSettings, args.settings)
    inputs = verified(args.rows, args.responses, args.rubric)
    rows = read_records(args.rows)
    rubric = load_rubric(args.rubric)
    pairs, counts = preference_pairs(rows, Table(args.responses, READ), rubric, settings)
    write_json(args.counts, counts)
    write_columns(args.output, pairs)
    record([args.output, args.counts], inputs, vars(settings))
    left = ", ".join(f"{one['choice']} → {one['pairs']}" for one in counts["pairs"])
    if warning := one_sided(pairs, rubric, settings.samples):
        print(f"warning: {warning}")
    print(f"- {args.output}: of {counts['responses']} responses {left}; by reason {counts['reasons']}")


if __name__ == "__main__":
    run(main)
