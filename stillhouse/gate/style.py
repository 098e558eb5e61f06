"""Style leak: whether the student speaks of the text it no longer has.

In: the student's answers to all that gates ask. Out: the share that names a source: "according to the memory", "the
passage says". The teacher had that source before it; whoever reads the student's answer has not. What names a source is
for the language to say (`text/language.py`).

It does not count an answer whose expected one says the same.
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
    asked = ctx.asked
    if not asked:
        return MEASURE.result(None, config.threshold, 0, note="the study has no questions")
    answers = ctx.answers([q.text for q in asked], ctx.slot)
    leaks = [
        {"question": q.text, "answer": a} for q, a in zip(asked, answers, strict=True) if leaks_source(a, q.answer)
    ]
    n, hits = len(asked), len(leaks)
    return MEASURE.result(hits / n, config.threshold, n, wilson(hits, n), f"{hits} of {n}", {"leaks": leaks})


def leaks_source(answer: str, expected: str = "") -> bool:
    """Whether an answer names the text it was taken from, where the expected one does not."""
    return names_source(answer) and not names_source(expected)
