r"""Write a tutor's model card: what it is, how it was trained and how well it does, for users of the checkpoint.

Reads   the checkpoint's manifest, metrics.json, comparison.json (of an aligned tutor), perplexity.json, splits.json,
        the rubric, the audit; the records of metrics.json and of responses.csv next to it, for the settings of both
Writes  README.md, and a copy in the checkpoint's folder, where the hub looks for it

    python scripts/card.py results/tiny/dpo-b0.1/checkpoint.json --metrics results/tiny/dpo-b0.1/test/metrics.json \
        --comparison results/tiny/dpo-b0.1/test/comparison.json --splits results/data/splits.json \
        --rubric datasets/rubrics/class.yaml --dataset bio --source simulated \
        --origin 'random weights' --rows pairs --valid-format 0.9 --output results/tiny/dpo-b0.1/README.md
"""

from pathlib import Path
from typing import Any

import jinja2

from pedalign.core.artifacts import read_json, write_text
from pedalign.core.checkpoint_folders import CARD
from pedalign.core.errors import argument_parser, run
from pedalign.core.paths import tutor_of
from pedalign.core.provenance import read_record, record, verified
from pedalign.data.rubric import Rubric, load_rubric
from pedalign.models.transformers4 import which_transformers
from pedalign.reporting.card_metadata import metadata
from pedalign.reporting.figures import compared, difference, ends, percent, typeset
from pedalign.reporting.summary import is_tested, tutor_marks

TEMPLATE = Path(__file__).parent / "pedalign" / "reporting" / "card.md"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--comparison", type=Path, help="of an aligned tutor")
    parser.add_argument("--perplexity", type=Path, help="where there are pairs for it")
    parser.add_argument("--before", type=Path, help="perplexity.json of the fine-tuned tutor, of an aligned one")
    parser.add_argument("--audit", type=Path, help="of a model that was fine-tuned here")
    parser.add_argument(
        "--valid-format", type=float, required=True, help="share below which a comparison is not tested"
    )
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--dataset", required=True, help="name of the conversation files")
    parser.add_argument("--source", required=True, help="where these are, as 'source' in config.yaml")
    parser.add_argument("--origin", required=True, help="the model from which training started, folder or hub id")
    parser.add_argument(
        "--rows", choices=("conversations", "pairs", "replies"), required=True, help="what its training counts as rows"
    )
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    more = [path for path in (args.comparison, args.perplexity, args.before, args.audit) if path]
    inputs = verified(args.manifest, args.metrics, args.splits, args.rubric, *more)
    manifest, metrics, splits = read_json(args.manifest), read_json(args.metrics), read_json(args.splits)
    comparison = read_json(args.comparison) if args.comparison else {}
    perplexity, before, audit = (read_json(path) if path else {} for path in (args.perplexity, args.before, args.audit))
    rubric, settings = load_rubric(args.rubric), manifest["settings"]
    key = tutor_of(args.output)
    name, simulated = " ".join(key), bool(splits["simulated"])
    checkpoint = args.manifest.with_suffix("")
    tested = bool(comparison) and is_tested(comparison, args.valid_format)
    page = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    page.filters |= {"percent": percent, "ends": ends}
    card = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        told=_told(manifest, args.origin),
        spoken=rubric.field(rubric.spoken).name,
        simulated=simulated,
        rubric=rubric,
        metadata=metadata(
            name, args.origin, bool(settings.get("alignment")), args.dataset, args.source, simulated, metrics, rubric
        ),
        transformers=which_transformers(read_json(checkpoint / "config.json")),
        scratch=args.origin == "random weights",
        data=_data(splits, args.dataset, manifest, args.rows),
        leaks=_leaks(splits),
        alignment=settings.get("alignment"),
        settings=_flat(settings),
        steps=manifest.get("steps"),
        loss=manifest.get("final_loss"),
        metrics=metrics,
        first_turn=read_record(args.metrics)["settings"]["first_turn"],
        decoding=_decoding(read_record(args.metrics.with_name("responses.csv"))["settings"]["generation"]),
        comparison=comparison,
        tested=tested,
        format_change=_change(comparison["valid_format"], tested) if comparison else "",
        marks=tutor_marks({key: metrics}, {key: manifest}, {key[0]: audit}, rubric, args.valid_format).get(key),
        measured=_measured(metrics, comparison, tested, rubric),
        perplexity=perplexity.get("scaffold_likelier", {}).get("per_token"),
        before=before.get("scaffold_likelier", {}).get("per_token"),
        pairs=perplexity.get("pairs"),
        commit=manifest["git_commit"] or "unknown",
        versions=", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    )
    write_text(args.output, card)
    write_text(checkpoint / CARD, card)
    told = {name: getattr(args, name) for name in ("dataset", "source", "origin", "rows", "valid_format")}
    record([args.output], inputs, told)
    print(f"{args.output}: the model card, in the checkpoint's folder too")


def _told(manifest: dict[str, Any], origin: str) -> str:
    if "adopted_from" in manifest:
        return f"A tutor that was trained elsewhere: {manifest['adopted_from']}."
    if alignment := manifest["settings"].get("alignment"):
        how = f"{alignment['algorithm'].upper()}, beta {alignment['beta']:g}"
        made = "then aligned with preference pairs made of its own mistakes"
        return f"A tutor that was fine-tuned from {origin}, and {made} ({how})."
    return f"A tutor that was fine-tuned from {origin}."


def _data(splits: dict[str, Any], dataset: str, manifest: dict[str, Any], rows: str) -> str:
    drawn = splits["splits"]
    told = f"Dataset `{dataset}`: fine-tuned on {drawn['sft']['conversations']} conversations"
    if manifest["settings"].get("alignment"):
        what = "replies, good and bad," if rows == "replies" else rows
        told += f", aligned on {manifest['rows']} {what} from {drawn['dpo']['conversations']} others"
    return f"{told}; drawn by the method '{splits['method']}'."


def _decoding(generation: dict[str, Any]) -> str:
    how = f"temperature {generation['temperature']:g}" if generation["temperature"] else "always the likeliest token"
    penalty = generation["repetition_penalty"]
    how += f", repetition penalty {penalty:g}" if penalty != 1 else ""
    return f"{how}, at most {generation['max_new_tokens']} tokens"


def _leaks(splits: dict[str, Any]) -> str:
    leak = splits.get("leaks", {}).get("test_shares_problem_with_sft")
    if not leak or not leak["conversations"]:
        return ""
    return (
        f"{leak['conversations']} of {leak['of']} test conversations are about a problem that a conversation of the "
        "training is about too: how well it does with new problems is not shown."
    )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """One level of names: `training.epochs`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": one for key, one in _flat(value).items()}
        elif value is not None:
            found[name] = value
    return found


def _measured(metrics: dict[str, Any], comparison: dict[str, Any], tested: bool, rubric: Rubric) -> list[list[str]]:
    """The table's rows: field, accuracy, its interval, share of the most frequent label; for an aligned tutor also both
    differences."""
    rows = []
    for field in rubric.label_fields:
        found = metrics[field.key]
        row = [field.name, percent(found["accuracy"]), ends(found["accuracy_ci95"])]
        row.append(percent(metrics["majority_baseline"][field.key]))
        if comparison:
            one = comparison[field.key]
            row.append(_change(one["both_valid"], tested))
            row.append(_change({**one, "p_value": None}, tested) if tested else "not told")
        rows.append(row)
    return rows


def _change(part: dict[str, Any], tested: bool) -> str:
    """A difference in points, with its interval and p-value if it is tested."""
    return typeset(difference(compared(part), tested))


if __name__ == "__main__":
    run(main)
