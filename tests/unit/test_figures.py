"""How figures are written, on a terminal, on a page and on a card."""

import pytest

from pedalign.reporting.figures import Estimate, compared, difference, read_estimate, share, typeset

ROW = {"action_accuracy": "0.981", "action_accuracy_low": "0.978", "action_accuracy_high": "0.985"}
CHANGE = {"action_difference": "0.019", "action_difference_low": "-0.001", "action_difference_high": "0.039"}


@pytest.mark.parametrize(
    ("row", "name", "plain", "on_a_page"),
    [
        (CHANGE, "action_difference", "+1.9 [-0.1, +3.9]", "+1.9 [\N{MINUS SIGN}0.1, +3.9]"),
        ({**CHANGE, "action_p_holm": "0.061"}, "action_difference", "+1.9 [-0.1, +3.9] p=0.061",
         "+1.9 [\N{MINUS SIGN}0.1, +3.9], p = 0.061"),
        ({**CHANGE, "action_p_holm": "0.0001"}, "action_difference", "+1.9 [-0.1, +3.9] p<0.001",
         "+1.9 [\N{MINUS SIGN}0.1, +3.9], p < 0.001"),
        ({"action_difference": "0.02", "action_difference_sd": "0.0"}, "action_difference", "+2.0 ± 0.0", "+2.0 ± 0.0"),
        ({"action_difference": ""}, "action_difference", "none", "none"),
    ],
)  # fmt: skip
def test_a_difference_has_its_interval_and_its_p_value_or_the_spread_over_seeds(row, name, plain, on_a_page) -> None:
    told = difference(read_estimate(row, name), tested=True)
    assert told == plain and typeset(told) == on_a_page


def test_of_a_difference_that_is_not_tested_no_interval_and_no_p_value_is_told() -> None:
    for one in (read_estimate({**CHANGE, "action_p_holm": "0.061"}, "action_difference"), Estimate(0.019)):
        assert difference(one, tested=False) == "+1.9, not tested"


def test_a_share_has_its_interval() -> None:
    one = read_estimate(ROW, "action_accuracy")
    assert one == Estimate(0.981, (0.978, 0.985)) and share(one) == "98.1 [97.8, 98.5]"
    assert share(Estimate(0.83, sd=0.01)) == "83.0 ± 1.0" and share(Estimate(0.6)) == "60.0"


def test_a_part_of_a_comparison_is_a_difference_unless_nothing_could_be_compared() -> None:
    part = {"difference": 0.02, "difference_ci95": [0.01, 0.03], "p_value": 0.01}
    assert difference(compared(part), tested=True) == "+2.0 [+1.0, +3.0] p=0.010"
    assert compared({**part, "difference": None, "difference_ci95": None}) is None


def test_a_minus_within_a_name_stays() -> None:
    assert typeset("tiny dpo-b0.1 -0.3") == "tiny dpo-b0.1 \N{MINUS SIGN}0.3"
