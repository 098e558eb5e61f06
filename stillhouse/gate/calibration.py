"""Calibration gap: whether the student is as often right as it is sure.

In: held-out questions about the memory, each with the teacher's answer, or with the expected one where the study has
none of the teacher's. The student is given these answers token by token. Out: the negative log-likelihood of their
tokens minus the entropy of the student's own distribution, in nats per token. A gap near zero means honest confidence.
A large gap means a student that is sure and wrong. A gap below zero means a student that is too unsure.

It does not know other wordings of an answer. Where the student would word it otherwise, the gap counts style as error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gating.answers import held_out
from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.scored_answers import refuse_nan
from ..gating.stats import bootstrap, ratio
from ..generate import score
from ..records import Candidate, GateResult
from ..text.prompts import without_memory

MEASURE = Measure(
    __name__, "surprise at the expected answers beyond the student’s own doubt", "nats per token", at_least=False,
    remedy="Ask for more wordings (capture.wordings) and more tail draws (capture.draws), or train fewer steps.",
    tries=("supervision", "constraints"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `calibration`."""

    threshold: float = 0.2
    """Largest mean gap, in nats per token. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Nats per answer token; n = questions; bootstrap over questions."""
    questions = held_out(ctx.study)
    prompts = [ctx.model.chat_ids(without_memory(q.text)) for q in questions]
    answers = [ctx.model.text_ids(q.teacher or q.answer) for q in questions]
    kept = [(p, a) for p, a in zip(prompts, answers, strict=True) if a and len(p) + len(a) <= ctx.model.context]
    if not kept:
        return MEASURE.result(None, config.threshold, 0, note="the study has no held-out questions with an answer")

    def reduce(row: int, logits_TV: Tensor) -> float:
        prompt, answer = kept[row]
        return float(gaps(logits_TV[len(prompt) - 1 : -1], answer).sum())

    sequences = [p + a for p, a in kept]
    sums = score(ctx.runner, sequences, reduce, slots=[ctx.slot] * len(kept))
    tokens = [len(a) for _, a in kept]
    return MEASURE.result(
        ratio(sums, tokens), config.threshold, len(kept), bootstrap(sums, tokens), details={"tokens": sum(tokens)}
    )


def gaps(logits_TV: Tensor, ids: Sequence[int]) -> Tensor:
    """gap_T = -log p(ids_t) - H(p), in nats, float64. Raises `FloatingPointError` on NaN."""
    refuse_nan(logits_TV)
    logp_TV = torch.log_softmax(logits_TV, -1)
    ids_T1 = torch.tensor(ids, device=logits_TV.device)[:, None]
    entropy_T: Tensor = torch.special.entr(logp_TV.exp()).double().sum(-1)
    nll_T: Tensor = -logp_TV.gather(1, ids_T1)[:, 0].double()
    return nll_T - entropy_T
