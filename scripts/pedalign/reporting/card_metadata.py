"""The metadata of a model card for the hub: the YAML before the card's text."""

import re
from pathlib import Path
from typing import Any

import yaml

from pedalign.core.artifacts import parse_yaml, read_text
from pedalign.core.checkpoint_folders import CARD, model_folder
from pedalign.core.errors import UserError
from pedalign.data.rubric import Rubric

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LICENSE = ("license", "license_name", "license_link")
_ENGLISH = ("simulated", "published")  # sources that are known to be English


def metadata(
    name: str,
    origin: str,
    aligned: bool,
    dataset: str,
    source: str,
    simulated: bool,
    metrics: dict[str, Any],
    rubric: Rubric,
) -> str:
    """The YAML (https://huggingface.co/docs/hub/model-cards), with the figures as the hub's `model-index`, shares of 1.

    `origin`: the model from which all training started; its own card gives the licence. Unknown facts are left out:
    other licences, other languages, and ids of data sets on the hub (conversation files are not there).
    """
    found: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    found["tags"] = ["education", "tutoring", "preference-alignment" if aligned else "sft"]
    if source in _ENGLISH:
        found["language"] = "en"
    base = _front_matter(model_folder(origin) / CARD)
    found |= {key: base[key] for key in _LICENSE if isinstance(base.get(key), str)}
    if _HUB_ID.fullmatch(origin) and not Path(origin).exists():
        found |= {"base_model": origin, "base_model_relation": "finetune"}
    conversations = "simulated conversations" if simulated else "conversations"
    result = {
        "task": {"type": "text-generation", "name": "tutoring"},
        "dataset": {"type": dataset, "name": f"{dataset} ({conversations})", "split": "test"},
        "metrics": _metrics(metrics, rubric),
    }
    found["model-index"] = [{"name": name, "results": [result]}]
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000)


def _metrics(metrics: dict[str, Any], rubric: Rubric) -> list[dict[str, Any]]:
    shares = [("accuracy", "replies in valid format", metrics["valid_format"])]
    for field in rubric.label_fields:
        shares.append(("accuracy", f"{field.name}, accuracy", metrics[field.key]["accuracy"]))
        shares.append(("f1", f"{field.name}, macro F1", metrics[field.key]["macro_f1"]))
    return [{"type": kind, "name": name, "value": value} for kind, name, value in shares]


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML before a card's text; empty if there is no such card."""
    try:
        block = re.match(r"---\s*\n(.*?\n)---\s*\n", read_text(card), re.DOTALL)
        found = parse_yaml(block[1], str(card)) if block else {}
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
