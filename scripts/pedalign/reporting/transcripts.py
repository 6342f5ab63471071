"""The test conversations with every tutor's replies next to the gold ones, for the report page."""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pedalign.data.rubric import Rubric

Labelled = dict[str, Any]  # a reply's text, labels by field key, and defect or None


def labelled(text: str, rubric: Rubric) -> Labelled:
    """A reply's text for the student, and its labels; if the parser can't read it, all of its text."""
    reply = rubric.parse(text)
    spoken = reply.values.get(rubric.spoken) if not reply.defect else None
    found = {field.key: reply.values.get(field.key) for field in rubric.label_fields}
    labels = {
        field.key: found[field.key] if found[field.key] in field.labels else None for field in rubric.label_fields
    }
    return {
        "text": text if spoken is None else spoken,
        "labels": labels,
        "defect": reply.detail if reply.defect else None,
    }


def transcripts(
    rows: Iterable[Mapping[str, Any]], responses: Mapping[str, Iterable[Mapping[str, str]]], rubric: Rubric
) -> list[dict[str, Any]]:
    """The conversations of formatted test `rows`: id, and for each turn the student's words, the gold reply and the
    replies of all tutors (`responses`: tutor → its rows, in the order of `rows`)."""
    found: dict[str, dict[str, Any]] = {}
    for row, *answers in zip(rows, *responses.values(), strict=True):
        conversation = found.setdefault(row["conversation_id"], {"id": row["conversation_id"], "turns": []})
        conversation["turns"].append(
            {
                "turn": row["turn"],
                "student": row["prompt"][-1]["content"],
                "gold": labelled(row["chosen"][0]["content"], rubric),
                "replies": [labelled(answer["response"], rubric) for answer in answers],
            }
        )
    return list(found.values())


def packed(value: Any) -> str:
    """A value as compressed JSON in Base64, for a page; equal values give equal text."""
    return base64.b64encode(gzip.compress(json.dumps(value).encode(), mtime=0)).decode()
