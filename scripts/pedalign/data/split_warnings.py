"""Warnings about a draw of splits: for the log, splits.json, preflight and the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from pedalign.data.paper_rules import INSTRUCTIONS_END
from pedalign.data.reply_defects import Tally
from pedalign.data.spellings import much_else

# The share of drawn conversations that are cut or dropped; the problems of a split that has two or more conversations
# per problem; the conversations per problem.
MOST_CUT = 0.2
FEW_PROBLEMS = 10
MANY_OF_A_PROBLEM = 50


def warnings(drawn: int, report: Mapping[str, Any], tally: Tally) -> Iterator[str]:
    """The warnings about a draw of `drawn` conversations, from its report and the reasons for its cuts."""
    yield from _much_cut(drawn, report, tally)
    yield from _words_before_the_mark(report["instructions"]["kept"])
    yield from _few_problems(report["splits"])
    yield from much_else(report["read_as"], sum(found["tutor_turns"] for found in report["splits"].values()))


def _much_cut(drawn: int, report: Mapping[str, Any], tally: Tally) -> Iterator[str]:
    splits = report["splits"]
    got, wanted = (sum(found[what] for found in splits.values()) for what in ("conversations", "wanted"))
    missing = "; ".join(
        f"{split}: wanted {found['wanted']:,} conversations, got {found['conversations']:,}"
        for split, found in splits.items()
        if found["conversations"] < found["wanted"]
    )
    if len(report["cut"]) > MOST_CUT * drawn:
        yield (
            f"{len(report['cut']):,} of {drawn:,} drawn conversations are cut before a reply that is not valid, "
            f"{len(report['dropped']):,} of them at the first{f' ({missing})' if missing else ''}; "
            f"{tally.commonest()}; to fix it: {tally.remedy()}"
        )
    elif wanted - got > MOST_CUT * wanted:
        yield f"{missing}; the files have no more, or what was drawn opens with no valid reply"


def _words_before_the_mark(turns: int) -> Iterator[str]:
    if turns:
        yield (
            f'{turns:,} student turns keep what stands before "{INSTRUCTIONS_END.strip()}", as it is not known for '
            "instructions to the tutor; if it is some, take it out of the files (docs/explanation/splits.md)"
        )


def _few_problems(accounts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for split, account in accounts.items():
        conversations, problems = account["conversations"], account["problems"]
        few = problems < FEW_PROBLEMS and conversations >= 2 * problems
        if few or conversations > MANY_OF_A_PROBLEM * problems:
            what = "what is learned" if split != "test" else "what is measured"
            yield (
                f"the {split} split is about few problems for its size: {problems:,} for {conversations:,} "
                f"conversations, {conversations / problems:.1f} each; {what} there may hold for these problems alone "
                "(a problem is told by its id or the opening question: docs/explanation/splits.md)"
            )
