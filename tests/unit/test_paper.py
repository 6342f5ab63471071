"""The paper's own rules, held against a second, plain reading of its published scripts."""

import ast
import json
import random

import pytest
import yaml

from pedalign.data import paper_rules
from pedalign.data.conversations import PaperReader, RawConversation, clean
from pedalign.data.preferences import PreferenceSettings, preference_pairs
from pedalign.data.splits import SplitSettings, draw
from pedalign.evaluation.metrics import EvaluationSettings, metrics
from pedalign.evaluation.paper_scores import paper_scores
from pedalign.workflow.catalogue import filled_in

NAMES = {
    "evaluation": "Evaluation of Student Response",
    "action": "Action Based on Evaluation",
    "state": "Subproblem State",
    "subproblem": "Subproblem",
    "tutorbot": "Tutorbot",
}
VALUES = {"evaluation": "a", "action": "1", "state": "x", "subproblem": "Why?", "tutorbot": "Look again."}


def reply(**changed) -> dict:
    return {NAMES[key]: value for key, value in {**VALUES, **changed}.items() if value is not ...}


def row(gold: str, response: str, turn: int = 1) -> dict[str, str]:
    ended = {"response_tokens": "9", "finish_reason": "stop"}
    return {"conversation_id": "1", "turn": str(turn), "gpt": gold, "response": response, "sample": "0", **ended}


def test_the_papers_macro_f1_leaves_out_a_real_label_where_every_reply_can_be_read(rubric):
    right = [row(repr(reply(evaluation=label)), repr(reply(evaluation=label))) for label in "ab"]
    wrong = row(repr(reply(evaluation="a")), repr(reply(evaluation="b")))
    found = paper_scores([*right, wrong], rubric, first_turn=False)["evaluation"]
    assert found["paper_macro_f1"] == pytest.approx(2 / 3, abs=1e-6)  # of b alone; a, which sorts first, is left out
    unreadable = row(repr(reply(evaluation="a")), "hm")
    found = paper_scores([*right, unreadable], rubric, first_turn=False)["evaluation"]
    assert found["paper_macro_f1"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-6)  # of a and b; "" is left out


def test_the_catalogue_has_the_settings_of_both_versions_of_the_published_code(root):
    models = filled_in(yaml.safe_load((root / "config.yaml").read_text()))["models"]
    february = {"max_new_tokens": 1024, "repetition_penalty": 1.2}
    later = {"max_new_tokens": 512, "repetition_penalty": 1.0}
    for names, settings in (
        (("mistral-7b", "zephyr-7b", "vicuna-7b"), february),
        (("mistral-7b-v3", "llama-3.1-8b"), later),
    ):
        for name in names:
            generation = models[name]["generate"]
            assert {key: generation[key] for key in settings} == settings, name
            assert (generation["temperature"], generation["min_new_tokens"]) == (0.3, 2), name
            assert (models[name]["sft"], models[name]["align"]) == (
                models["mistral-7b"]["sft"],
                models["mistral-7b"]["align"],
            )
    assert models["mistral-7b-v3"]["path"] == models["mistral-7b"]["path"]


def test_metrics_give_the_papers_figures_beside_the_corrected_ones(rubric):
    talkative = f"Sure! {reply()!r}"  # the workflow's parser reads it, the paper's does not
    rows = [row(repr(reply()), talkative), row(repr(reply()), repr(reply())), row(repr(reply(action="123")), "hm")]
    found = metrics(rows, rubric, EvaluationSettings(first_turn=False, resamples=100, seed=1))
    assert found["action"]["accuracy"] == 1
    assert set(found["notes"]) == {name for name in found["action"] if name.startswith("paper_")}
    assert found["action"]["paper_accuracy"] == 0.5
    assert found["action"]["support"] == found["action"]["paper_support"] == 2  # an unknown gold label is not scored


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (repr(reply()), None),
        (json.dumps(reply()), None),
        (repr(reply(tutorbot="Other words.")), None),
        (repr(reply(evaluation=" a ")), None),  # labels are stripped here, though not in the scores
        (repr(reply(tutorbot=["Look again."])), None),  # a list is there, which is all that is asked
        ("hm", "unparseable"),
        (f"Sure! {reply()!r}", "unparseable"),
        (repr(reply())[:-1], "unparseable"),
        ("5", "incomplete"),
        (repr(reply(tutorbot=...)), "incomplete"),
        (repr(dict.fromkeys(NAMES.values(), "")), "incomplete"),
        (repr(reply(evaluation="b", state="y")), "evaluation"),
        (repr(reply(action="2")), "action"),
        (repr(reply(state=["x"])), "state"),
    ],
)
def test_a_mistake_is_what_the_paper_calls_one(rubric, response, reason):
    judged = paper_rules.mistake(repr(reply()), response, rubric)
    assert (judged and judged[0]) == reason
    rows = [
        {"conversation_id": "1", "turn": 1, "prompt": [], "chosen": [{"role": "assistant", "content": repr(reply())}]}
    ]
    always = {**rows[0], "turn": 2}  # so that there is a pair in any case
    gold = repr(reply())
    answers = [row(gold, response), row(gold, "hm", turn=2)]
    pairs, _ = preference_pairs([*rows, always], answers, rubric, PreferenceSettings(paper_rules=True))
    assert pairs["reason"] == [one for one in (reason, "unparseable") if one]


@pytest.mark.parametrize("changed", [{"action": "123"}, {"evaluation": ""}, {"state": "xy"}, {"tutorbot": None}])
def test_a_gold_reply_that_is_not_valid_makes_no_pair(rubric, changed):
    assert paper_rules.mistake(repr(reply(**changed)), "hm", rubric) is None


def test_a_conversation_is_cut_where_the_paper_cuts_it(rubric):
    kept = [
        reply(),
        reply(evaluation="N/A", action="N/A", state="N/A") | {"Thoughts of Tutorbot": "..."},
        reply(action="1, 2"),
        reply(tutorbot=["Look again."]),
        reply(subproblem=...),
    ]
    cut = [reply(action=...), [reply()], "hm"]
    for last in cut:
        texts = [text for value in [*kept, last, reply()] for text in ("Why?", str(value))]
        conversation, where = clean(RawConversation("1", tuple(texts)), PaperReader(rubric))
        assert where is not None and where.turn == len(kept)
        written = [ast.literal_eval(message["content"]) for message in conversation.messages[1::2]]
        assert written == [kept[0], reply(evaluation="g", action="12", state="w"), *kept[2:]]
        assert conversation.messages[1]["content"] == rubric.serialize(VALUES)


@pytest.mark.parametrize("available", [10, 20, 30])
def test_the_papers_draw_takes_what_there_is(rubric, tmp_path, available):
    """Against the procedure as published: one seed, one sample per file, cut in the order SFT, DPO, test."""
    files, expected = [], {"sft": [], "dpo": [], "test": []}
    rng = random.Random(42)
    for number in (1, 2, 3):
        records = []
        for at in range(available + 5):
            entries = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": repr(reply())}]
            records.append({"id": str(at), "conversations": entries * (1 if at % 7 == 3 else 2)})
        files.append(tmp_path / f"x-dataset-{number}.json")
        files[-1].write_text(json.dumps(records))
        longer = [record["id"] for record in records if len(record["conversations"]) > 2]
        sample = [f"{number}:{identity}" for identity in rng.sample(longer, min(8 + 8 + 6, len(longer)))]
        expected["sft"] += sample[:8]
        expected["dpo"] += sample[8:16]
        expected["test"] += sample[16:]
    if not expected["test"]:
        expected.pop("test")
    settings = SplitSettings(sft=8, dpo=8, test=6, seed=42, paper_rules=True)
    if available == 10:
        with pytest.raises(Exception, match="the test split is empty"):
            draw(files, rubric, settings)
        return
    splits, report = draw(files, rubric, settings)
    assert {name: [one.id for one in members] for name, members in splits.items()} == expected
    assert report["paper_rules"] is True
