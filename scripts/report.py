r"""Write the report page: whether alignment helped, where, and what each tutor replies.

Reads   summary.csv, splits.json, the formatted test split, the rubric; of each tutor metrics.json, perplexity.json,
        checkpoint.json and responses.csv; the audits, the counts of pairs; Snakemake's benchmark files and the logs
Writes  report.html, one page that needs no network; its charts and tables, charts/<section>/<title>.svg and .csv

    python scripts/report.py results --dataset bio --rubric datasets/rubrics/class.yaml \
        --tutors tiny/sft tiny/dpo-b0.1 --first-turn false --config '{"seed": 42}' --output results/report.html \
        --charts results/charts
"""

import base64
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import jinja2

from pedalign.core.artifacts import read_csv, read_json, whole_directory, write_csv, write_text
from pedalign.core.errors import argument_parser, run
from pedalign.core.json_stream import read_records
from pedalign.core.paths import Paths
from pedalign.core.provenance import git_commit, record, verified, versions
from pedalign.core.settings import settings_values
from pedalign.data.responses import Responses
from pedalign.data.rubric import load_rubric
from pedalign.reporting.examples import compared_pair, examples
from pedalign.reporting.report import Report, name_of, scored
from pedalign.reporting.sections import SECTIONS
from pedalign.reporting.sentences import answers, changes, leaks
from pedalign.reporting.summary import Key
from pedalign.reporting.timing import by_stage, memory, spent
from pedalign.reporting.transcripts import packed, transcripts

PAGE = Path(__file__).parent / "pedalign" / "reporting" / "report.html"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("results", type=Path, help="the folder of all artifacts")
    parser.add_argument("--dataset", required=True, help="name of the conversation files")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--tutors", nargs="+", required=True, help="<model>/<policy> of each, in the page's order")
    parser.add_argument(
        "--first-turn", choices=("true", "false"), required=True, help="whether first turns were scored"
    )
    parser.add_argument("--config", required=True, help="a file (YAML, JSON) or JSON: the settings that the page shows")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--charts", type=Path, required=True, help="the folder for the charts")
    args = parser.parse_args()

    paths, rubric = Paths(str(args.results), args.dataset), load_rubric(args.rubric)
    keys: list[Key] = [(model, policy) for model, _, policy in (tutor.partition("/") for tutor in args.tutors)]
    models = list(dict.fromkeys(model for model, _ in keys))
    split = Path(paths.formatted("test"))
    tutors = {key: paths.tutor("/".join(key)) for key in keys}
    responses = {key: Path(tutor.responses()) for key, tutor in tutors.items()}
    files = {
        "metrics": _there({key: tutor.metrics for key, tutor in tutors.items()}),
        "perplexities": _there({key: tutor.perplexity for key, tutor in tutors.items()}),
        "manifests": _there({key: tutor.manifest for key, tutor in tutors.items()}),
        "audits": _there({model: paths.model(model).audit for model in models}),
        "counts": _there({model: paths.model(model).preferences_counts for model in models}),
    }
    summary, splits_file = Path(paths.summary), Path(paths.splits_report)
    read = [path for named in files.values() for path in named.values()]
    inputs = verified(summary, splits_file, split, args.rubric, *responses.values(), *read)

    found: dict[str, Any] = {
        kind: {key: read_json(path) for key, path in named.items()} for kind, named in files.items()
    }
    prompts = read_records(split)
    tables = {" ".join(key): Responses(path, prompts) for key, path in responses.items()}
    talks = transcripts(prompts, tables, rubric)
    first_turn, settings = args.first_turn == "true", settings_values(args.config)
    report = Report(
        rubric=rubric,
        tutors=keys,
        rows=read_csv(summary),
        splits=read_json(splits_file),
        papers_data=settings.get("source") == "published",
        asked=len(prompts),
        turns=scored(talks, first_turn),
        first_turn=first_turn,
        seconds=by_stage(spent(paths)),
        gigabytes=memory(paths),
        **found,
    )
    sections = [make(report) for make in SECTIONS]
    fields = [{"key": one.key, "name": one.name, "labels": one.labels} for one in rubric.label_fields]
    main_field = [one.key for one in rubric.label_fields].index(report.main_field.key)
    script = PAGE.with_suffix(".js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        title=f"Tutors of {report.rows[0]['data']}",
        answers=answers(report),
        changes=changes(report),
        marks=[f"{name_of(row)}: {row['marks']}" for row in report.rows if row["marks"]],
        leaks=leaks(report.splits),
        examples=examples(report),
        main_field=report.main_field.name,
        compared=" and ".join(" ".join(keys[at]) for at in compared_pair(keys)),
        sections=sections,
        transcripts=packed(
            {
                **{"tutors": list(tables), "compared": compared_pair(keys), "fields": fields, "main": main_field},
                **{"first": first_turn, "conversations": talks},
            }
        ),
        script=script,
        script_hash=f"'sha256-{digest}'",
        settings=json.dumps(settings, ensure_ascii=False, indent=2),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=git_commit() or "unknown",
        versions=", ".join(f"{package} {number}" for package, number in versions().items()),
        hashes=inputs.items(),
    )
    with whole_directory(args.charts) as folder:
        for section in sections:
            for figure in section.figures:
                write_text(folder / section.id / f"{_file_name(figure.title)}.svg", figure.svg)
            for header, cells in section.tables:
                write_csv(folder / section.id / f"{_file_name(header[0])}.csv", header, cells)
    write_text(args.output, page)
    record([args.output], inputs, {"tutors": args.tutors})
    print(f"{args.output}: {len(page) / 2**20:.1f} MB, {sum(len(one.figures) for one in sections)} charts")


def _file_name(title: str) -> str:
    """`Loss, tiny sft` → `loss-tiny-sft`"""
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def _there(paths: dict[Any, str]) -> dict[Any, Path]:
    return {key: Path(path) for key, path in paths.items() if Path(path).is_file()}


if __name__ == "__main__":
    run(main)
