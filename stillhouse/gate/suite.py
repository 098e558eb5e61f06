"""Regression suite: whether the student does worse than its base on questions of the user's own.

In: a `Suite` in the context. Out: the student's share of right answers minus the base's. For a question with choices
the answer is the choice of the highest likelihood, summed over its tokens (`acc` in lm-evaluation-harness). For any
other it is the greedy answer, and `text/answers.py` says whether it is right.

It does not apply without a suite, and refuses one whose questions were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..gating.context import Context, prompt_digest
from ..gating.measure import DoesNotApply, Measure
from ..gating.scored_answers import refuse_nan
from ..gating.stats import bootstrap
from ..gating.suite import SuiteQuestion
from ..generate import score
from ..records import Candidate, GateResult
from ..runners import BASE
from ..text.answers import Expected, grade
from ..text.prompts import without_memory

MEASURE = Measure(
    __name__, "right answers on the suite, compared with the base’s", "fraction", at_least=True,
    remedy="Raise train.curvature_weight, lower train.steps or train.rank.",
    tries=("anchors", "constraints"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `suite`."""

    threshold: float = -0.02
    """Least share of right answers, student minus base, from -1 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult | DoesNotApply:
    """Student minus base; n = questions; paired bootstrap over questions. Raises `InputError` on trained questions."""
    if ctx.suite is None or not ctx.suite.items:
        return DoesNotApply("no suite was given" if ctx.suite is None else "the suite has no questions of its own")
    items = ctx.suite.items
    _refuse_trained(items, ctx)
    base, student = marks(ctx, items, BASE), marks(ctx, items, ctx.slot)
    change = [float(s) - float(b) for s, b in zip(student, base, strict=True)]
    rows = [
        {"question": i.question, "expected": i.answer, "base": b, "student": s}
        for i, b, s in zip(items, base, student, strict=True)
    ]
    n = len(items)
    note = f"{ctx.suite.name}: {sum(student)} of {n}, base {sum(base)} of {n}"
    details = {"suite": rows, "digest": ctx.suite.digest}
    return MEASURE.result(sum(change) / n, config.threshold, n, bootstrap(change), note, details)


def marks(ctx: Context, items: Sequence[SuiteQuestion], slot: int) -> list[bool]:
    """Right or wrong for every item, answered by `slot`."""
    answers = iter(ctx.ask([(i.question, slot) for i in items if not i.choices]))
    likely = iter(_likeliest(ctx, [i for i in items if i.choices], slot))
    return [next(likely) == i.answer if i.choices else _right(next(answers), i) for i in items]


def _right(answer: str, item: SuiteQuestion) -> bool:
    return grade(answer, Expected(item.answer, question=item.question)).correct


def _likeliest(ctx: Context, items: Sequence[SuiteQuestion], slot: int) -> list[str]:
    """For each question the choice with the highest log-probability after it; the first of equals."""
    prompts = [ctx.model.chat_ids(without_memory(i.question)) for i in items]
    sequences, starts = [], []
    for item, prompt in zip(items, prompts, strict=True):
        for choice in item.choices:
            sequences.append((prompt + ctx.model.text_ids(choice))[: ctx.model.context])
            starts.append(len(prompt))

    def reduce(row: int, logits_TV: Tensor) -> float:
        refuse_nan(logits_TV)
        logp_TV = torch.log_softmax(logits_TV[starts[row] - 1 : -1], -1)
        next_T1 = torch.tensor(sequences[row][starts[row] :], device=logits_TV.device)[:, None]
        return float(logp_TV.gather(1, next_T1).double().sum())

    logprobs = iter(score(ctx.runner, sequences, reduce, slots=[slot] * len(sequences)))
    return [max(((next(logprobs), -n, c) for n, c in enumerate(item.choices)))[2] for item in items]


def _refuse_trained(items: Sequence[SuiteQuestion], ctx: Context) -> None:
    for item in items:
        if prompt_digest(ctx.model.chat_ids(without_memory(item.question))) in (ctx.trained or ()):
            raise InputError(
                f"the suite's question {item.question!r:.80} was trained on: its result would prove nothing; remove it"
            )
