"""Verbatim recall: the questions the student was trained on, asked again without the memory.

In: the study's training questions about statements (forward, reverse, cloze). Out: the share answered right. A failure
means that the training did not do its job. A pass does not mean that the facts were learned (see `paraphrase`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.answers import share
from ..gating.context import Context
from ..gating.measure import Measure
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "trained questions answered without the memory", "fraction", at_least=True,
    remedy="Train longer (train.steps), then with a higher train.rank.",
    tries=("rank",),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `recall`."""

    threshold: float = 0.95
    """Least share of right answers, from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Share of trained questions answered right; n = questions; Wilson's interval."""
    questions = [q for q in ctx.study.questions if q.use == "train" and q.direction != "unknown"]
    answers = ctx.answers([q.text for q in questions], ctx.slot)
    return share(MEASURE, questions, answers, ctx.expected, config.threshold)
