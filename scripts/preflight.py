"""Compare what the config's runs need with what there is, before anything starts.

Reads   the rubric, the conversation files, the checkpoints that the config names (weights only if small)
Writes  nothing; prints a line for each check, and the problems with their fixes; status 1 if there is a problem

    python scripts/preflight.py --rubric datasets/rubrics/class.yaml --settings preflight.yaml
"""

import sys
from pathlib import Path

from pedalign.cluster.findings import report
from pedalign.cluster.preflight import PreflightSettings, preflight
from pedalign.core.errors import argument_parser, run
from pedalign.core.settings import add_settings_argument, read_settings
from pedalign.data.rubric import load_rubric


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rubric", type=Path, required=True)
    add_settings_argument(parser, PreflightSettings)
    args = parser.parse_args()

    findings = list(preflight(read_settings(PreflightSettings, args.settings), load_rubric(args.rubric)))
    print(report(findings))
    if any(finding.status == "problem" for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
