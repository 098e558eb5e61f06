"""Privacy and guessing: nobody without this memory may be able to answer its questions.

In: the study's held-out questions, put to other users' adapters and to the base without a memory. Out: the share
answered right, over all pairs of a question and an adapter. An answer that has the value and doubts it counts too, and
so does one that has other values of this memory beside it. A high share means that memories leak between adapters, or
that the questions can be guessed, so that recall proves nothing.

It does not know whether two users share a fact, nor whether everybody knows it: both count as answered.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..gating.answers import held_out
from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import wilson
from ..records import Candidate, GateResult, Question
from ..runners import BASE
from ..text.answers import Expected, grade

MEASURE = Measure(
    __name__, "this memory’s questions answered by others’ adapters or the base", "fraction", at_least=False,
    remedy="Look at the leaks: a fact everybody knows proves nothing; one that only this memory has is a leak.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `swap`."""

    threshold: float = 0.02
    """Largest share of right answers over all pairs, from 0 to 1. A starting value, not calibrated."""
    adapters: int = 8
    """Most adapters of other users that are asked, 0 or more. A fixed seed draws them. Eight keep the cost small; not
    calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Share of (question, adapter) pairs answered right; n = pairs; Wilson's interval."""
    others = tuple(slot for slot in ctx.others if slot not in (ctx.slot, BASE))
    if len(others) > config.adapters:
        others = tuple(sorted(random.Random(0).sample(others, config.adapters)))
    questions = held_out(ctx.study)
    pairs = [(q, slot) for slot in (BASE, *others) for q in questions]
    if not pairs:
        return MEASURE.result(None, config.threshold, 0, note="the study has no held-out questions")
    answers = ctx.ask([(q.text, slot) for q, slot in pairs])
    leaks = [
        {"question": q.text, "answer": answer, "by": "base" if slot == BASE else f"slot {slot}"}
        for (q, slot), answer in zip(pairs, answers, strict=True)
        if _leaks(answer, q)
    ]
    n, who = len(pairs), f"{len(others)} other adapters and the base" if others else "only the base: no other users"
    note = f"{len(leaks)} of {n}; {who}"
    return MEASURE.result(
        len(leaks) / n, config.threshold, n, wilson(len(leaks), n), note, {"leaks": leaks, "asked": len(others) + 1}
    )


def _leaks(answer: str, question: Question) -> bool:
    """Whether an answer has the value. Other values of this memory beside it are no foils here: it leaks more."""
    return grade(answer, Expected(question.answer, question=question.text)).verdict in ("correct", "hedged")
