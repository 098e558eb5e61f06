"""Refusal: whether the student says "I don't know" where it should, and only there.

In: the study's held-out questions, answerable and not, or a trace's responses to them. Out: F1 of the class "refused",
the harmonic mean of precision (refusals that are right) and recall (unanswerable questions that are refused). A student
that always refuses passes `unknown`, and one that never refuses passes `paraphrase`; neither passes here.

It does not know whether an answer that is no refusal is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import f1_interval
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "F1 of “I don’t know”, over answerable and unanswerable questions", "fraction", at_least=True,
    remedy="If it refuses too much, lower train.unknown_weight; too little, raise capture.unknown_per_statement.",
    tries=("supervision",),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `refusal`."""

    threshold: float = 0.85
    """Least F1, a fraction from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """F1; n = held-out questions; the interval comes from Wilson's."""
    questions = ctx.held_out_questions
    should = [q.direction == "unknown" for q in questions]
    if not any(should) or all(should):
        return MEASURE.result(None, config.threshold, 0, note="needs held-out questions of both kinds")
    refused = [response.refused for response in ctx.closed_book_responses()]
    pairs_2N = torch.tensor([refused, should], dtype=torch.float64)
    hits = sum(r and s for r, s in zip(refused, should, strict=True))
    interval = f1_interval(hits, sum(refused), sum(should))
    note = f"{sum(refused)} refused, {hits} of them rightly, of {sum(should)} unanswerable"
    rows = _wrong([q.text for q in questions], refused, should)
    value = float(f1(pairs_2N[0], pairs_2N[1]))
    return MEASURE.result(value, config.threshold, len(questions), interval, note, {"wrong": rows})


def f1(refused_DN: Tensor, should_DN: Tensor) -> Tensor:
    """F1_D of 0/1 marks along the last axis; NaN where nothing was refused and nothing should have been."""
    return 2 * (refused_DN * should_DN).sum(-1) / (refused_DN.sum(-1) + should_DN.sum(-1))


def _wrong(questions: Sequence[str], refused: Sequence[bool], should: Sequence[bool]) -> list[dict[str, object]]:
    rows = zip(questions, refused, should, strict=True)
    return [{"question": q, "refused": r} for q, r, s in rows if r != s]
