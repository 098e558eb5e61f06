"""Greedy answers with their likelihood.

In: a runner, prompts as token ids, an adapter slot for each. Out: a `ScoredAnswer` per prompt.

It does not know questions, nor which answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Literal

import torch
from torch import Tensor

from ..generate import Sampling, answer
from ..models import TextModel
from ..runners import Runner

StopReason = Literal["stop", "length"]


@dataclass(frozen=True)
class ScoredAnswer:
    """A greedy answer with its likelihood."""

    text: str
    tokens: int  # how many, without the stop token
    logprob: float  # of all tokens and of the stop token, in nats
    stop_reason: StopReason = "stop"  # "length": it reached the limit, and has no stop token
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of its tokens and of its stop token, 0 to 1."""
        count = self.tokens + (self.stop_reason == "stop")
        return exp(self.logprob / count) if count else 0.0


def scored_answers(
    runner: Runner,
    prompts: Sequence[list[int]],
    slots: Sequence[int],
    limit: int,
    drafts: Sequence[list[int]] | None = None,
) -> list[ScoredAnswer]:
    """Answers of at most `limit` tokens, in the order given. `drafts`: likely answers, as `generate.answer` takes them.
    They save time and change no answer. Raises `FloatingPointError` on NaN logits."""
    model, logprob = runner.model, [0.0] * len(prompts)

    def on_step(rows: list[int], logits_NV: Tensor) -> None:
        refuse_nan(logits_NV)
        chosen_N = logits_NV.amax(-1) - logits_NV.logsumexp(-1)
        for row, value in zip(rows, chosen_N.tolist(), strict=True):
            logprob[row] += value

    sampling = Sampling(max_new_tokens=limit)
    outputs = answer(runner, prompts, sampling, slots=slots, drafts=drafts, on_step=on_step)
    return [
        ScoredAnswer(model.text(ids), len(ids), lp, _stop_reason(ids, prompt, limit, model), tuple(ids))
        for prompt, ids, lp in zip(prompts, outputs, logprob, strict=True)
    ]


def refuse_nan(logits: Tensor) -> None:
    """Raises `FloatingPointError` if any logit is NaN. Otherwise argmax would choose it, without a sign."""
    if bool(torch.isnan(logits).any()):
        raise FloatingPointError("the model's logits are not numbers (NaN); the adapter is broken")


def _stop_reason(ids: Sequence[int], prompt: Sequence[int], limit: int, model: TextModel) -> StopReason:
    return "length" if len(ids) == min(limit, model.context - len(prompt)) else "stop"
