"""Verbosity drift: whether the student's answers are as long as its teacher's.

In: held-out questions with the teacher's answers. Out: |tokens of the student's answers / tokens of the teacher's - 1|.
An answer that runs on, repeats itself or breaks off shows here, even where it has the expected words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import ratio, resampled
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "length of answers, compared with the teacher’s", "fraction", at_least=False,
    remedy="Train longer, or check that training answers end with the model’s stop token.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `verbosity`."""

    threshold: float = 0.25
    """Largest change of total length, as a fraction of the teacher's. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Relative change of total length; n = questions; paired bootstrap over questions."""
    questions = [q for q in ctx.held_out_questions if ctx.model.text_ids(q.teacher or q.answer)]
    if not questions:
        return MEASURE.result(None, config.threshold, 0, note="the study has no held-out questions with an answer")
    answers = ctx.answers([q.text for q in questions], ctx.slot)
    student = [float(len(ctx.model.text_ids(answer))) for answer in answers]
    teacher = [float(len(ctx.model.text_ids(q.teacher or q.answer))) for q in questions]
    student_N, teacher_N = (torch.tensor(x, dtype=torch.float64) for x in (student, teacher))
    interval = resampled(lambda at: (student_N[at].sum(1) / teacher_N[at].sum(1) - 1).abs(), len(questions))
    note = f"{sum(student):.0f} tokens, the teacher {sum(teacher):.0f}"
    return MEASURE.result(abs(ratio(student, teacher) - 1), config.threshold, len(questions), interval, note)
