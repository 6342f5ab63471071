"""Scaffolding against telling: the paper's figure and the right one, and which pairs count."""

import dataclasses
import json
import math

import numpy as np
import paper_scripts
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_model

from pedalign.data.conversations import Reader
from pedalign.evaluation.perplexity import Likelihood, ReplyPair, perplexities, read_reply_pairs
from pedalign.models.log_probs import log_probabilities

VALUES = {"evaluation": "a", "action": "1", "state": "x", "subproblem": "Why?", "tutorbot": "Look again."}


def entries(rubric, *replies: str) -> list[dict]:
    """A conversation with these replies, the last two of them to one history."""
    texts = [text for reply in replies[:-1] for text in ("Well?", reply)] + [replies[-1]]
    speakers = ["human", "gpt"] * (len(replies) - 1) + ["gpt"]
    return [{"from": speaker, "value": text} for speaker, text in zip(speakers, texts, strict=True)]


@pytest.fixture
def read(rubric, tmp_path):
    def reader(*conversations: list[dict]):
        path = tmp_path / "bio-dataset-ppl.json"
        records = [{"id": str(at), "conversations": one} for at, one in enumerate(conversations)]
        path.write_text(json.dumps(records))
        return read_reply_pairs(path, Reader(rubric))

    return reader


def test_pairs_that_do_not_scaffold_and_tell_are_counted_by_reason(rubric, read):
    def reply(action: str, **changed) -> str:
        return rubric.serialize({**VALUES, "action": action, **changed})

    pairs, refused = read(
        entries(rubric, reply("12"), reply("1"), repr(json.loads(reply("2")))),
        entries(rubric, reply("4", evaluation="c"), reply("5", evaluation="c")),
        entries(rubric, reply("2"), reply("1")),  # the alternative scaffolds
        entries(rubric, reply("1"), reply("5")),  # not of one kind
        entries(rubric, reply("1"), "hm"),
        entries(rubric, "{}", reply("2")),
        entries(rubric, reply("1"), reply("99")),
        entries(rubric, "hm", reply("1"), reply("2")),
    )
    assert [(pair.id, pair.labels, len(pair.messages)) for pair in pairs] == [
        ("0", ("1", "2"), 3),
        ("1", ("4", "5"), 1),
    ]
    assert pairs[0].replies == (reply("1"), reply("2"))  # canonical, whoever wrote them
    assert refused == {
        "alternative: unknown_label": 1,
        "alternative: unparseable": 1,
        "history: unparseable": 1,
        "labels that are not 1 then 2 or 4 then 5": 2,
        "original: incomplete": 1,
    }


def test_a_file_or_rubric_without_pairs_is_refused(rubric, read, refused, tmp_path):
    good = rubric.serialize(VALUES)
    with refused("no usable pair (alternative: unparseable: 1)", "1 then 2 or 4 then 5"):
        read(entries(rubric, good, "hm"))
    for broken in (entries(rubric, good, good)[:-1], entries(rubric, good, good)[:1], entries(rubric, good, good)[1:]):
        with refused("record 0 (id '0')", "does not end in two replies"):
            read(broken)
    silent = dataclasses.replace(rubric, scaffold_field=None, scaffold_tell=())
    with refused("has no 'scaffold_tell' pairs", "x.json"):
        read_reply_pairs(tmp_path / "x.json", Reader(silent))


def test_one_label_may_tell_against_two_that_scaffold(mathdial):
    pairs = [ReplyPair(move, (), ("", ""), (move, "telling")) for move in ("focus", "probing")]
    likelihoods = [(Likelihood(-1, 4), Likelihood(-4, 4)), (Likelihood(-2, 4), Likelihood(-8, 4))]
    report = perplexities(pairs, likelihoods, mathdial, resamples=100, seed=1)
    assert report["labels"]["telling"]["perplexity"] == pytest.approx(math.exp(12 / 8), rel=1e-4)
    assert list(report["groups"]) == ["focus+probing", "telling"]


REPLIES = st.builds(Likelihood, st.floats(-200, -0.01), st.integers(2, 60))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([("1", "2"), ("4", "5")]), REPLIES, REPLIES), min_size=1, max_size=12))
def test_perplexities_are_the_right_ones_and_the_papers(rubric, drawn):
    pairs = [ReplyPair(str(at), (), ("", ""), labels) for at, (labels, *_) in enumerate(drawn)]
    likelihoods = [(one, other) for _, one, other in drawn]
    report = perplexities(pairs, likelihoods, rubric, resamples=100, seed=1)
    by_label: dict[str, list[Likelihood]] = {label: [] for label in "1245"}
    for labels, one, other in drawn:
        by_label[labels[0]].append(one)
        by_label[labels[1]].append(other)
    published = paper_scripts.perplexities(
        {label: [(-one.total / one.tokens, one.tokens) for one in found] for label, found in by_label.items()}
    )
    assert set(report["labels"]) == set("1245") and set(report["groups"]) == {"1+4", "2+5"}
    for label, found in by_label.items():
        entry = report["labels"][label]
        assert entry["paper_perplexity"] == pytest.approx(published[label], rel=1e-4)
        assert (entry["replies"], entry["tokens"]) == (len(found), sum(one.tokens for one in found))
        if not found:
            assert (entry["perplexity"], entry["paper_perplexity"]) == (None, 1.0)
        else:
            nats = np.repeat([-one.total / one.tokens for one in found], [one.tokens for one in found])
            assert entry["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-4)
    both = by_label["1"] + by_label["4"]
    joint = math.exp(-sum(one.total for one in both) / sum(one.tokens for one in both))
    assert report["groups"]["1+4"]["perplexity"] == pytest.approx(joint, rel=1e-4)


def test_the_likelier_reply_is_counted_per_token_and_in_total(rubric):
    """A telling reply that is longer can be the likelier one per token and the less likely one in total."""
    pairs = [ReplyPair(str(at), (), ("", ""), ("1", "2")) for at in range(10)]
    longer = (Likelihood(-10, 5), Likelihood(-12, 12))
    better = (Likelihood(-1, 5), Likelihood(-12, 12))
    report = perplexities(pairs, [longer] * 6 + [better] * 4, rubric, resamples=500, seed=1)["scaffold_likelier"]
    assert report["per_token"]["share"] == 0.4
    assert report["in_total"] == {"share": 1.0, "share_ci95": [1.0, 1.0]}
    low, high = report["per_token"]["share_ci95"]
    assert low < 0.25 and high > 0.55


def test_on_the_published_texts_and_tokens_the_papers_figure_is_the_published_scripts(rubric):
    """The script's own way, by the model's loss; so what else differs is which texts and tokens are scored."""
    records = [
        {"id": str(at), "conversations": entries(rubric, *(rubric.serialize({**VALUES, "action": one}) for one in two))}
        for at, two in enumerate(["12", "45", "12", "12"])
    ]
    model, tokenizer, _ = small_model()
    losses: dict[str, list[tuple[float, int]]] = {label: [] for label in "1245"}
    asked = []
    for prompt, replies in paper_scripts.reply_pairs(records):
        start = len(tokenizer(prompt)["input_ids"])
        for action, reply in replies.items():
            ids = tokenizer(f"{prompt} {reply}", return_tensors="pt")["input_ids"]
            labels = ids.clone()
            labels[:, :start] = -100
            with torch.no_grad():
                losses[action].append((float(model(ids, labels=labels).loss), ids.shape[1] - start))
            asked.append((ids[0, :start].tolist(), ids[0, start:].tolist()))
    totals = log_probabilities(model, asked, 4096).totals
    found = [Likelihood(total, len(reply)) for total, (_, reply) in zip(totals, asked, strict=True)]
    pairs = [ReplyPair(str(at), (), ("", ""), tuple(two)) for at, two in enumerate(["12", "45", "12", "12"])]
    report = perplexities(pairs, list(zip(found[::2], found[1::2], strict=True)), rubric, resamples=100, seed=1)
    for label, figure in paper_scripts.perplexities(losses).items():
        assert report["labels"][label]["paper_perplexity"] == pytest.approx(figure, rel=1e-4)


def test_which_texts_are_scored_differs_from_the_published_script_as_the_docs_say(rubric, read):
    def reply(action: str) -> str:
        return rubric.serialize({**VALUES, "action": action})

    spaced = f"{json.loads(reply('2'))!r}".replace("'Subproblem'", " 'Subproblem'")
    talks = {
        "raw text": entries(rubric, reply("1"), spaced),
        "a history that is broken": entries(rubric, "hm", reply("1"), reply("2")),
        "an action with a space": entries(rubric, reply("1 "), reply("2")),
    }

    def published(name: str) -> list[tuple[str, dict[str, str]]]:
        return paper_scripts.reply_pairs([{"id": name, "conversations": talks[name]}])

    ((_, texts),) = published("raw text")
    assert texts == {"1": reply("1"), "2": spaced}
    (pair,), _ = read(talks["raw text"])
    assert pair.replies == (reply("1"), reply("2"))  # canonical

    assert len(published("a history that is broken")) == 1
    assert read(talks["a history that is broken"], talks["raw text"])[1] == {"history: unparseable": 1}

    assert published("an action with a space") == []
    (pair,), refused = read(talks["an action with a space"])
    assert (pair.labels, refused) == (("1", "2"), {})

    _, tokenizer, rendering = small_model()
    ids = rendering.reply_ids(reply("1"))
    assert ids[-1] == rendering.end_id  # scored here; the script's texts end with the reply
    assert rendering.end_id not in tokenizer(f"Tutorbot: {reply('1')}")["input_ids"]


def test_a_reply_that_stops_the_published_script_is_counted(rubric, read):
    good = rubric.serialize(VALUES)
    broken = entries(rubric, good, "hm")
    with pytest.raises(ValueError, match="malformed"):
        paper_scripts.reply_pairs([{"id": "0", "conversations": broken}])
    _, refused = read(broken, entries(rubric, good, rubric.serialize({**VALUES, "action": "2"})))
    assert refused == {"alternative: unparseable": 1}
