"""Greedy answers with their likelihood.

In: a runner, prompts as token ids, an adapter slot for each. Out: a `Reply` per prompt.

It does not know what is asked.
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
class Reply:
    """A greedy answer: its text, its tokens, and the log-probability of all of it, the stop token included, in nats.

    `stop_reason`: the model ended it, or it reached the limit and has no stop token. `ids`: the tokens themselves.
    """

    text: str
    tokens: int
    logprob: float
    stop_reason: StopReason = "stop"
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of its tokens and its end, 0 to 1."""
        chosen = self.tokens + (self.stop_reason == "stop")
        return exp(self.logprob / chosen) if chosen else 0.0


def replies(
    runner: Runner,
    prompts: Sequence[list[int]],
    slots: Sequence[int],
    limit: int,
    drafts: Sequence[list[int]] | None = None,
) -> list[Reply]:
    """Answers of at most `limit` tokens, in the order given. `drafts` are `answer`'s: they save time and change no
    answer. Raises `FloatingPointError` on NaN logits."""
    model, logprob = runner.model, [0.0] * len(prompts)

    def on_step(rows: list[int], logits_NV: Tensor) -> None:
        refuse_nan(logits_NV)
        chosen_N = logits_NV.amax(-1) - logits_NV.logsumexp(-1)
        for row, value in zip(rows, chosen_N.tolist(), strict=True):
            logprob[row] += value

    sampling = Sampling(max_new_tokens=limit)
    found = answer(runner, prompts, sampling, slots=slots, drafts=drafts, on_step=on_step)
    return [
        Reply(model.text(ids), len(ids), lp, _reason(ids, prompt, limit, model), tuple(ids))
        for prompt, ids, lp in zip(prompts, found, logprob, strict=True)
    ]


def refuse_nan(logits: Tensor) -> None:
    """Raise `FloatingPointError` if any logit is NaN: every comparison with NaN is false, and argmax would pick it."""
    if bool(torch.isnan(logits).any()):
        raise FloatingPointError("the model's logits are not numbers (NaN); the adapter is broken")


def _reason(ids: Sequence[int], prompt: Sequence[int], limit: int, model: TextModel) -> StopReason:
    return "length" if len(ids) == min(limit, model.context - len(prompt)) else "stop"
