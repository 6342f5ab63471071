"""Remove stale locks, left by a killed call of Snakemake. If the call still runs, say so and fail.

Reads   .snakemake/locks, .snakemake/living
Writes  nothing: `snakemake --unlock` removes the locks

    python scripts/unlock.py && snakemake --cores all
"""

import subprocess
import sys

from pedalign.cluster.snakemake_calls import locked_by_the_dead
from pedalign.core.errors import argument_parser, run


def main() -> None:
    argument_parser(__doc__).parse_args()
    if locked_by_the_dead():
        print("an earlier call was killed; its stale locks are removed", flush=True)
        subprocess.run([sys.executable, "-m", "snakemake", "--unlock", "--quiet", "all"], check=True)


if __name__ == "__main__":
    run(main)
