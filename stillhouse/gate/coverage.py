"""Coverage-weighted recall: how much of the memory the student knows, every statement counting the same.

In: all questions of the study about statements, trained and held out. Out: the mean over statements of the share of
their questions answered right; a statement nobody could ask about counts as not known. `recall` and `paraphrase` count
questions, so a statement with ten of them outweighs one with three, and one with none is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.answers import as_expected
from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import wilson
from ..records import Candidate, GateResult

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
    """Mean over statements; n = statements that are no orders to the model; Wilson's interval over statements."""
    marks: dict[int, list[bool]] = {s.index: [] for s in ctx.study.statements if not s.instruction}
    asked = [q for q in ctx.study.questions if q.statement in marks and q.direction != "unknown"]
    if not marks:
        return MEASURE.result(None, config.threshold, 0, note="the memory has no statements")
    for question, answer in zip(asked, ctx.answers([q.text for q in asked], ctx.slot), strict=True):
        if question.statement is not None:
            marks[question.statement].append(as_expected(answer, question))
    shares = [sum(m) / len(m) if m else 0.0 for m in marks.values()]
    silent = sum(not m for m in marks.values())
    note = f"{silent} of {len(marks)} statements without a question" if silent else ""
    interval = wilson(sum(shares), len(shares))
    return MEASURE.result(sum(shares) / len(shares), config.threshold, len(shares), interval, note)
