"""Put all runs into one table.

Reads   metrics.json, comparison.json and perplexity.json files, told apart by their paths
        <results>/<model>/<policy>/test/, and splits.json, which says whether the conversations are simulated
Writes  summary.csv

    python scripts/summarize.py --metrics results/tiny/*/test/metrics.json \
        --comparisons results/tiny/*/test/comparison.json \
        --perplexities results/tiny/*/test/perplexity.json --rubric datasets/rubrics/class.yaml \
        --splits results/data/splits.json --dataset bio --output results/summary.csv
"""

import argparse
from pathlib import Path
from typing import Any

from pedalign.artifacts import read_json, write_csv
from pedalign.errors import run
from pedalign.rubric import load_rubric
from pedalign.summary import Key, summary_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", type=Path, nargs="+", required=True)
    parser.add_argument("--comparisons", type=Path, nargs="*", default=[])
    parser.add_argument("--perplexities", type=Path, nargs="*", default=[])
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True, help="splits.json")
    parser.add_argument("--dataset", required=True, help="name of the conversation files")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    data = f"{args.dataset} (simulated)" if read_json(args.splits)["simulated"] else args.dataset
    metrics, comparisons, perplexities = map(_read, (args.metrics, args.comparisons, args.perplexities))
    header, rows = summary_rows(metrics, comparisons, perplexities, load_rubric(args.rubric), data)
    write_csv(args.output, header, rows)


def _read(paths: list[Path]) -> dict[Key, Any]:
    """(model, policy) → the file's content, by the path .../<model>/<policy>/test/<file>."""
    return {(path.parts[-4], path.parts[-3]): read_json(path) for path in paths}


if __name__ == "__main__":
    run(main)
