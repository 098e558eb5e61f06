"""Coverage-weighted recall: how much of the memory the student knows, every statement counting the same.

In: all questions of the study about statements, trained and held out. Out: the mean over statements of the share of
their questions that is answered right. A statement without questions counts as not known. The gates `recall` and
`paraphrase` count questions: there a statement with ten questions outweighs one with three, and one without any is not
seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.answers import verdicts
from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import wilson
from ..records import Candidate, GateResult
from ..text.answers import grade

MEASURE = Measure(
    __name__, "the memory’s statements, each by the share of its questions answered", "fraction", at_least=True,
    remedy="Look at the statements without questions: word them more simply, or raise capture.rounds.",
    tries=("supervision",),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `coverage`."""

    threshold: float = 0.7
    """Least mean over statements, a fraction from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Mean over statements; n = statements, without those that read like orders; Wilson's interval over statements."""
    marks: dict[int, list[bool]] = {s.index: [] for s in ctx.study.statements if not s.instruction}
    questions = [q for q in ctx.study.questions if q.statement in marks and q.direction != "unknown"]
    if not marks:
        return MEASURE.result(None, config.threshold, 0, note="the memory has no statements")
    answers = ctx.answers([q.text for q in questions], ctx.slot)
    grades = [grade(answer, ctx.expected[q]) for q, answer in zip(questions, answers, strict=True)]
    for question, one in zip(questions, grades, strict=True):
        if question.statement is not None:
            marks[question.statement].append(one.correct)
    shares = [sum(m) / len(m) if m else 0.0 for m in marks.values()]
    unasked = sum(not m for m in marks.values())
    note = f"{unasked} of {len(marks)} statements without a question" if unasked else ""
    interval = wilson(sum(shares), len(shares))
    details = {"verdicts": verdicts(grades)}
    return MEASURE.result(sum(shares) / len(shares), config.threshold, len(shares), interval, note, details)
