"""Overlap: whether the student was trained on the questions that are to test it.

In: the study's held-out questions, and digests of the prompts that the student was trained on. Where nobody kept those,
the study's training questions stand for them. Out: the share of held-out questions that are among them, by digest. One
is too many, because `paraphrase` and `unknown` would then measure nothing.

It does not see a question that was trained on in other words: held-out wordings are meant to be near.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.context import Context, prompt_digest
from ..gating.measure import Measure
from ..records import Candidate, GateResult
from ..text.answers import normalise
from ..text.prompts import without_memory

MEASURE = Measure(
    __name__, "held-out questions that were trained on", "fraction", at_least=False, exact=True,
    remedy="Capture the memory again; never train on questions that are marked as held out.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `overlap`."""

    threshold: float = 0.0
    """Largest share of held-out questions that were trained on, from 0 to 1. It is not calibrated: one trained question
    is already a fault."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Share of held-out questions that were trained on; n = held-out questions; counted, so there is no interval."""
    questions = ctx.held_out_questions
    texts = {normalise(q.text) for q in ctx.study.questions if q.use == "train"}
    trained = ctx.trained or frozenset()
    both = [
        q.text
        for q in questions
        if normalise(q.text) in texts or prompt_digest(ctx.model.chat_ids(without_memory(q.text))) in trained
    ]
    n = len(questions)
    if not n:
        return MEASURE.result(None, config.threshold, 0, note="the study has no held-out questions")
    source = f"{len(trained)} trained prompts" if ctx.trained is not None else "only the study’s training questions"
    note = f"{len(both)} of {n}, against {source}"
    return MEASURE.result(len(both) / n, config.threshold, n, None, note, {"trained": both})
