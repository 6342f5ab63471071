"""Print what artifacts were made from (data, settings, code, versions), back to the conversation files, and verify it.

Reads   the artifacts, their records, and all files that these name
Writes  nothing; the status is 1 if a file differs from its record

    python scripts/provenance.py results/tiny/dpo-b0.1/test/metrics.json
"""

from pathlib import Path

from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.provenance_chain import chain


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("artifacts", type=Path, nargs="+")
    args = parser.parse_args()

    links = []
    for link in chain(args.artifacts):
        print("\n".join(link.lines()), end="\n\n", flush=True)
        links.append(link)
    made = sum(link.record is not None for link in links)
    wrong = [link.path for link in links if link.problems]
    changed = [link.path for link in links if link.notes]
    print(
        f"{made} artifacts, {len(links) - made} sources; {len(wrong)} with a problem, {len(changed)} with changes since"
    )
    if wrong:
        raise UserError(f"not as on record: {', '.join(wrong)}", "see PROBLEM above")


if __name__ == "__main__":
    run(main)
