r"""Put all runs into one table.

Reads   metrics.json, comparison.json and perplexity.json files, whose paths <results>/<model>/<policy>/test/ name the
        tutor; splits.json, which says whether the conversations are simulated; the manifests and the audits, which say
        what went wrong in training and how long the gold replies are
Writes  summary.csv

    python scripts/summarize.py --metrics results/tiny/*/test/metrics.json \
        --comparisons results/tiny/*/test/comparison.json \
        --perplexities results/tiny/*/test/perplexity.json --rubric datasets/rubrics/class.yaml \
        --splits results/data/splits.json --dataset bio --output results/summary.csv
"""

from pathlib import Path
from typing import Any

from pedalign.core.artifacts import read_json, write_csv
from pedalign.core.errors import argument_parser, run
from pedalign.core.paths import tutor_of
from pedalign.core.provenance import record, verified
from pedalign.core.settings import settings_values
from pedalign.data.rubric import load_rubric
from pedalign.reporting.summary import Key, summary_rows, tutor_marks


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--metrics", type=Path, nargs="+", required=True)
    parser.add_argument("--comparisons", type=Path, nargs="*", default=[])
    parser.add_argument("--perplexities", type=Path, nargs="*", default=[])
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="of the same tutors as --metrics")
    parser.add_argument("--audits", type=Path, nargs="*", default=[], help="of the models that were fine-tuned here")
    parser.add_argument(
        "--valid-format", type=float, required=True, help="share below which a tutor is marked, and not tested"
    )
    parser.add_argument(
        "--settings", default="{}", help="JSON: <model>/<policy> and what differs from the model's entry"
    )
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True, help="splits.json")
    parser.add_argument("--dataset", required=True, help="name of the conversation files")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    read = (*args.metrics, *args.comparisons, *args.perplexities, *args.manifests, *args.audits)
    inputs = verified(*read, args.rubric, args.splits)
    data = f"{args.dataset} (simulated)" if read_json(args.splits)["simulated"] else args.dataset
    metrics, comparisons, perplexities = map(_read, (args.metrics, args.comparisons, args.perplexities))
    rubric = load_rubric(args.rubric)
    audits = {model: audit for (model, _), audit in _read(args.audits).items()}
    manifests = _read(args.manifests)
    marks = tutor_marks(metrics, manifests, audits, rubric, args.valid_format)
    measured = (metrics, comparisons, perplexities, manifests)
    told = {(model, policy): words for (model, _, policy), words in _told(args.settings)}
    header, rows = summary_rows(*measured, rubric, data, marks, args.valid_format, told)
    write_csv(args.output, header, rows)
    record([args.output], inputs, {"dataset": args.dataset, "valid_format": args.valid_format})


def _told(text: str) -> list[tuple[tuple[str, str, str], str]]:
    return [(tutor.partition("/"), words) for tutor, words in settings_values(text).items()]


def _read(paths: list[Path]) -> dict[Key, Any]:
    """(model, policy) → the file's content."""
    return {tutor_of(path): read_json(path) for path in paths}


if __name__ == "__main__":
    run(main)
