"""Draw where the time of a run went. The workflow calls this at the end of each run.

Reads   Snakemake's benchmark files, and the logs of the same names
Writes  time.svg

    python scripts/timing.py results
"""

from pathlib import Path

from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.paths import Paths
from pedalign.reporting.timing import draw, in_words, spent


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("results", type=Path, help="the folder of all artifacts")
    args = parser.parse_args()

    paths = Paths(str(args.results))
    found = spent(paths)
    if not found:
        raise UserError(f"{paths.benchmarks}: no benchmark file of Snakemake there", "run the workflow first")
    draw(found, Path(paths.time_chart))
    print(f"{paths.time_chart}: {in_words(found)}")


if __name__ == "__main__":
    run(main)
