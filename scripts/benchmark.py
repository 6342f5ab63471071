r"""Compare our ways of generating and training with common practice: same model, inputs and machine, in turn.

On a machine with a GPU the models are random ones of 1B and, if memory allows, 7B parameters, in bfloat16.

Reads   the SFT and test splits, the preference dataset, the base model and the SFT tutor, the rubric
Writes  benchmark.json: for each comparison and way the seconds and rates (median, least, most over the rounds), how
        many times faster ours is, how the results differ; how long stages take to start and Snakemake to plan; and the
        machine

    python scripts/benchmark.py --conversations results/data/bio-sft.json --rows results/data/bio-test_formatted.json \
        --preferences results/tiny/preferences.json --base results/tiny/base --tutor results/tiny/sft/checkpoint \
        --rubric datasets/rubrics/class.yaml --output results/benchmark.json \
        --settings benchmark.yaml
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pedalign.benchmarks.commands import waits
from pedalign.benchmarks.comparison import Comparison, benchmark_report, machine, measure
from pedalign.benchmarks.whole_runs import whole_runs
from pedalign.benchmarks.workloads import SIZES, Data, WorkloadSettings, alignment, generation, sft, subjects
from pedalign.core.artifacts import read_json, write_json
from pedalign.core.errors import argument_parser, run
from pedalign.core.settings import add_settings_argument, read_settings
from pedalign.data.conversations import split_conversations
from pedalign.data.rubric import load_rubric


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--conversations", type=Path, required=True, help="the SFT split")
    parser.add_argument("--rows", type=Path, required=True, help="the formatted test split")
    parser.add_argument("--preferences", type=Path, required=True)
    parser.add_argument("--base", required=True, help="the model to fine-tune")
    parser.add_argument("--tutor", required=True, help="the fine-tuned model, to answer and to align")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_settings_argument(parser, WorkloadSettings)
    parser.add_argument("--only", default="", help="run only comparisons whose names contain this text")
    args = parser.parse_args()

    settings = read_settings(WorkloadSettings, args.settings)
    data = Data(
        list(split_conversations(args.conversations)),
        read_json(args.rows),
        read_json(args.preferences),
        load_rubric(args.rubric),
    )
    comparisons: dict[str, Callable[..., Comparison]] = {
        "generation, compact instruction": partial(generation, instruction="compact"),
        "generation, full instruction": partial(generation, instruction="full"),
        "fine-tuning": sft,
        "alignment": alignment,
    }
    made = []
    for subject in subjects(args.base, args.tutor, settings):
        for name, prepare in comparisons.items():
            if args.only in name and subject.fits(name):
                say = partial(_say, f"{name} ({subject.name})")
                timed = measure(prepare(subject, data, settings, say=say), SIZES[settings.size].rounds, say)
                made.append({"name": name, "model": subject.name, **timed})
    found = {"size": settings.size, "machine": machine(), "comparisons": made}
    size = SIZES[settings.size]
    if args.only in "waits":
        found["waits"] = waits(size.rounds, partial(_say, "waits"))
    if args.only in "whole runs" and size.whole:
        found["whole_runs"] = whole_runs(size.whole, size.rounds, partial(_say, "whole runs"))
    write_json(args.output, found)
    print("\n".join(benchmark_report(found)))


def _say(name: str, line: str) -> None:
    print(f"benchmark: {name}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
