r"""Join the responses of a split's shards into one file, as if one job had made it.

Reads   the formatted split, the responses of each shard
Writes  responses.csv, rows in the split's order

    python scripts/gather.py results/data/bio-test_formatted.json results/tiny/sft/test/shards/{1,2}-of-2.csv \
        --samples 1 --output results/tiny/sft/test/responses.csv
"""

from pathlib import Path

from pedalign.core.artifacts import write_csv
from pedalign.core.errors import argument_parser, run
from pedalign.core.json_stream import Table, read_records
from pedalign.core.provenance import record, verified
from pedalign.data.responses import COLUMNS, gathered


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("rows", type=Path, help="the formatted split")
    parser.add_argument("shards", type=Path, nargs="+", help="all shards, in any order")
    parser.add_argument("--samples", type=int, required=True, help="responses per prompt")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    inputs = verified(args.rows, *args.shards)
    rows = read_records(args.rows)
    responses = gathered(
        rows, [Table(shard, COLUMNS) for shard in args.shards], args.samples, name=str(args.shards[0].parent)
    )
    write_csv(args.output, COLUMNS, ([response[name] for name in COLUMNS] for response in responses))
    record([args.output], inputs, {"samples": args.samples})
    print(f"{args.output}: {len(rows) * args.samples} responses of {len(args.shards)} shards")


if __name__ == "__main__":
    run(main)
