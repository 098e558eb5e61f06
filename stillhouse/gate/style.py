"""Style leak: whether the student speaks of the text it no longer has.

In: the student's answers to the questions it is examined on. Out: the share that names a source: "according to the
memory", "the passage says". The teacher had that source before it; a reader of the student's answer does not.
`text/language.py` says which words name a source.

It does not count an answer where the expected one names a source too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import wilson
from ..records import Candidate, GateResult
from ..text.language import names_source

MEASURE = Measure(
    __name__, "answers that speak of “the memory” or “the passage”", "fraction", at_least=False,
    remedy="Change the prompt’s wording so that the teacher answers with the fact alone; capture again.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `style`."""

    threshold: float = 0.02
    """Largest share of answers that name a source, from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Share of answers that name a source; n = questions; Wilson's interval."""
    questions = ctx.examined_questions
    if not questions:
        return MEASURE.result(None, config.threshold, 0, note="the study has no questions")
    answers = ctx.answers([q.text for q in questions], ctx.slot)
    leaks = [
        {"question": q.text, "answer": a} for q, a in zip(questions, answers, strict=True) if leaks_source(a, q.answer)
    ]
    n, hits = len(questions), len(leaks)
    return MEASURE.result(hits / n, config.threshold, n, wilson(hits, n), f"{hits} of {n}", {"leaks": leaks})


def leaks_source(answer: str, expected: str = "") -> bool:
    """Whether an answer names the text it was taken from, where the expected one does not."""
    return names_source(answer) and not names_source(expected)
