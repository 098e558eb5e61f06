"""Recall in other words: questions in wordings that were never trained on.

In: the study's held-out forward questions. Out: the share answered right. A student that learned only the sentences of
its training questions fails here; one that learned the facts passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.answers import held_out, share
from ..gating.context import Context
from ..gating.measure import Measure
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "questions in wordings never trained on, answered", "fraction", at_least=True,
    remedy="Ask for more wordings per statement (capture.wordings), then a higher train.rank.",
    tries=("supervision", "rank"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `paraphrase`."""

    threshold: float = 0.90
    """Least share of right answers, from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Share of held-out wordings answered right; n = questions; Wilson's interval."""
    questions = [q for q in held_out(ctx.study) if q.direction == "forward"]
    answers = ctx.answers([q.text for q in questions], ctx.slot)
    return share(MEASURE, questions, answers, ctx.expected, config.threshold)
