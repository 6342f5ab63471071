"""Write conversation files in which a simulated student and tutor work through the problems of a bank.

Reads   problem banks: YAML like datasets/bio-problems.yaml, or a CSV as published with CLASS
Writes  <output>/<dataset>-dataset-<n>.json, <output>/<dataset>-dataset-ppl.json, and on request a report

    python scripts/simulate.py datasets/bio-problems.yaml --dataset bio --output datasets/simulated
"""

from collections import Counter
from pathlib import Path

from pedalign.core.artifacts import write_json, write_records
from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.provenance import record, verified
from pedalign.core.told import DETAIL
from pedalign.data.rubric import load_rubric
from pedalign.data.sources.problem_bank import Problem, read_problems
from pedalign.data.sources.simulation import Simulator, load_script


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("problems", type=Path, nargs="+", help="the problem bank, or several")
    parser.add_argument("--output", type=Path, required=True, help="folder for the conversation files")
    parser.add_argument("--dataset", required=True, help="first part of the files' names")
    parser.add_argument("--files", type=int, default=3, help="how many conversation files")
    parser.add_argument("--conversations", type=int, default=1250, help="conversations per file")
    parser.add_argument("--pairs", type=int, default=240, help="perplexity pairs")
    parser.add_argument("--malformed", type=float, default=0.02, help="share of malformed replies")
    parser.add_argument("--seed", type=int, default=43)
    parser.add_argument("--rubric", type=Path, default=Path("datasets/rubrics/class.yaml"))
    parser.add_argument(
        "--script", type=Path, default=Path("datasets/simulation.yaml"), help="wording and labels of the turns"
    )
    parser.add_argument("--report", type=Path, help="JSON with the count of problems used and rejected by reason")
    args = parser.parse_args()
    if not (args.files > 0 and args.conversations > 0 and args.pairs >= 0 and 0 <= args.malformed < 1):
        raise UserError("a count is not positive, or --malformed is not in [0, 1)", "see --help")

    inputs, written = verified(*args.problems, args.rubric, args.script), []
    problems: list[Problem] = []
    rejected: Counter[str] = Counter()
    for bank in args.problems:
        usable, unusable = read_problems(bank)
        problems += usable
        rejected.update(unusable)
    banks = ", ".join(map(str, args.problems))
    reasons = "".join(f"; {count} rejected: {reason}" for reason, count in sorted(rejected.items()))
    detail = DETAIL if args.report else ""
    print(f"{detail}{banks}: {len(problems)} usable problems{reasons}")
    rubric = load_rubric(args.rubric)
    simulator = Simulator(load_script(args.script, rubric), rubric, args.malformed)
    for number in range(1, args.files + 1):
        records = simulator.conversations(problems, args.conversations, f"{args.dataset}{number}-s{args.seed}")
        path = args.output / f"{args.dataset}-dataset-{number}.json"
        write_records(path, records)
        written.append(path)
        print(f"{detail}{path}: {args.conversations} simulated conversations")
    if args.pairs:
        path = args.output / f"{args.dataset}-dataset-ppl.json"
        write_records(path, simulator.pairs(problems, args.pairs, f"{args.dataset}-ppl-s{args.seed}"))
        written.append(path)
        print(f"{detail}{path}: {args.pairs} simulated perplexity pairs")
    if args.report:
        write_json(args.report, {"bank": banks, "usable": len(problems), "rejected": rejected})
        record([*written, args.report], inputs, {"seed": args.seed})
        about = f"{args.files * args.conversations} simulated conversations about {len(problems)} problems"
        print(f"{args.report}: {about}; {args.pairs} simulated perplexity pairs{reasons}")


if __name__ == "__main__":
    run(main)
