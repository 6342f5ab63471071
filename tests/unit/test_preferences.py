"""Preference pairs: which mistakes are taken, and how many each choice leaves."""

import json
from collections import Counter

from pedalign.data.pair_warnings import one_sided
from pedalign.data.preferences import PreferenceSettings, preference_pairs

VALUES = {"evaluation": "a", "action": "1", "state": "x", "subproblem": "Why?", "tutorbot": "Look again."}


def reply(rubric, **changed) -> str:
    return rubric.serialize({**VALUES, **changed})


def answered(rubric, *turns: list[str], golds: list[dict] | None = None) -> tuple[list[dict], list[dict]]:
    """Formatted rows of one conversation, and for each turn its responses."""
    golds = golds or [{} for _ in turns]
    rows = [
        {
            "conversation_id": "a",
            "turn": at,
            "prompt": [{"role": "user", "content": f"Q. {at}?"}],
            "chosen": [{"role": "assistant", "content": reply(rubric, **gold)}],
        }
        for at, gold in enumerate(golds)
    ]
    given = [
        {
            "conversation_id": "a",
            "turn": str(at),
            "sample": str(number),
            "response": text,
            "gpt": rows[at]["chosen"][0]["content"],
        }
        for at, texts in enumerate(turns)
        for number, text in enumerate(texts)
    ]
    return rows, given


def test_a_pair_is_made_of_each_mistake_and_says_its_reason(rubric):
    responses = [
        reply(rubric),  # right
        reply(rubric, tutorbot="Other words, same labels."),  # right as well
        "hm",
        '{"Tutorbot": "hm"}',
        reply(rubric, state="y", action="2"),
        reply(rubric, evaluation="zz"),
        repr(json.loads(reply(rubric, state="z"))),
    ]
    rows, given = answered(rubric, *([one] for one in responses))
    pairs, counts = preference_pairs(rows, given, rubric, PreferenceSettings())
    assert pairs["turn"] == [2, 3, 4, 5, 6]
    assert pairs["reason"] == ["unparseable", "incomplete", "action", "evaluation", "state"]
    assert {chosen[0]["content"] for chosen in pairs["chosen"]} == {reply(rubric)}
    assert pairs["rejected"][4][0]["content"] == reply(rubric, state="z")  # canonical, not as the model spaced it
    assert counts["responses"] == 7
    assert counts["pairs"] == [{"choice": "mistakes", "pairs": 5}, {"choice": "per_prompt: 1", "pairs": 5}]


def test_responses_that_do_not_belong_to_the_split_are_refused(rubric, refused):
    rows, given = answered(rubric, ["x", "x"], ["y", "y"])
    settings = PreferenceSettings(samples=2)
    for wrong in (given[:3], [*given, given[0]], given[::-1], [*given[:3], {**given[3], "turn": "9"}]):
        with refused("responses.csv has"):
            preference_pairs(rows, wrong, rubric, settings)
    with refused("responses.csv has"):
        preference_pairs(rows, given, rubric, PreferenceSettings(samples=1))


def test_a_tutor_without_mistakes_cannot_be_aligned(rubric, refused):
    with refused("no preference pair"):
        preference_pairs(*answered(rubric, [reply(rubric)]), rubric, PreferenceSettings())


def rejected(rubric, samples: list[str], **chosen) -> list[str]:
    settings = PreferenceSettings(samples=len(samples), **chosen)
    pairs, _ = preference_pairs(*answered(rubric, samples), rubric, settings)
    return [one[0]["content"] for one in pairs["rejected"]]


def test_of_several_samples_the_wanted_mistakes_are_rejected_and_none_twice(rubric):
    two, one, three = ({"action": "2", "state": "y"}, {"state": "y"}, {"evaluation": "b", "action": "3", "state": "y"})
    samples = [reply(rubric, **changed) for changed in (two, {}, one, two, three)] + ["hm"]
    texts = {name: reply(rubric, **changed) for name, changed in (("two", two), ("one", one), ("three", three))}
    assert rejected(rubric, samples) == [texts["two"]]
    assert rejected(rubric, samples, reject="nearest") == [texts["one"]]
    assert rejected(rubric, samples, reject="worst") == [texts["three"]]
    assert rejected(rubric, samples, reject="worst", per_prompt=2) == [texts["three"], "hm"]  # all labels wrong
    assert rejected(rubric, samples, per_prompt=9) == [texts["two"], texts["one"], texts["three"], "hm"]


def many(rubric) -> tuple[list[dict], list[dict]]:
    """40 prompts with gold action 1, 8 with 2, 12 with 3; all answered wrongly."""
    golds = [{"action": action} for action, count in (("1", 40), ("2", 8), ("3", 12)) for _ in range(count)]
    return answered(rubric, *(["hm"] for _ in golds), golds=golds)


def actions(rubric, pairs) -> Counter:
    return Counter(rubric.parse(chosen[0]["content"]).values["action"] for chosen in pairs["chosen"])


def test_no_label_has_more_than_its_share_of_the_pairs(rubric, refused):
    wanted = {"field": "action", "most": 1}
    pairs, counts = preference_pairs(*many(rubric), rubric, PreferenceSettings(balance=wanted))
    assert actions(rubric, pairs) == {"1": 20, "2": 8, "3": 12}  # 60 pairs of 3 labels: 20 are the mean
    assert counts["pairs"][-1] == {"choice": "balance: action, most 1", "pairs": 40}
    assert pairs["turn"] == sorted(pairs["turn"])
    with refused("no label 'acton'", "did you mean 'action'"):
        preference_pairs(*many(rubric), rubric, PreferenceSettings(balance={"field": "acton", "most": 1}))


def test_a_limit_draws_by_the_seed(rubric):
    def turns(**settings) -> list[int]:
        pairs, counts = preference_pairs(*many(rubric), rubric, PreferenceSettings(most=25, **settings))
        assert counts["pairs"][-1] == {"choice": "most: 25", "pairs": 25}
        return pairs["turn"]

    assert turns(seed=1) == turns(seed=1) != turns(seed=2)
    assert len(set(turns(seed=1))) == 25
    unlimited, _ = preference_pairs(*many(rubric), rubric, PreferenceSettings(most=60))
    assert len(unlimited["turn"]) == 60


def test_a_label_that_the_pairs_nearly_always_reject_is_told(rubric):
    def told(mistakes: list[tuple[str, str]], samples: int = 1) -> str | None:
        rows, given = answered(
            rubric,
            *([reply(rubric, evaluation=wrong)] for _, wrong in mistakes),
            golds=[{"evaluation": gold} for gold, _ in mistakes],
        )
        pairs, _ = preference_pairs(rows, given, rubric, PreferenceSettings())
        assert len(pairs["turn"]) == len(mistakes)
        return one_sided(pairs, rubric, samples)

    warning = told([("a", "b")] * 20 + [("b", "c")] * 5 + [("c", "a")] * 5)
    expected = "the pairs are one-sided: evaluation 'b' (rejected in 20 of 30 pairs that differ in it, chosen in 5);"
    assert warning and warning.startswith(expected) and "pair: {samples: 4, temperature: 1.0}" in warning
    of_several = told([("a", "b")] * 30, samples=4)
    assert of_several and "samples" not in of_several
    assert told([("a", "b")] * 20 + [("b", "c")] * 6 + [("c", "a")] * 5) is None  # the opposite mistake is there too
    assert told([("a", "no label")] * 30) is None
    assert told([("a", "b")] * 10) is None  # too few to say
    assert told([("a", "b"), ("b", "a")] * 10) is None
