"""The sampler. The next token of a row depends on its logits, settings, seed and step, and on nothing else.

In: next-token logits of a batch and one `Draw` per row. Out: one token or one `Choice` per row. The uniform number of a
draw is a hash of seed and step (BLAKE2b), so it is the same on every machine and in any batch. The token is the one at
which this number falls in the row's cumulative distribution, most likely token first.

The filters are applied in vLLM's order: repetition penalty (Keskar et al. 2019, arXiv 1909.05858), temperature, min-p
(Nguyen et al. 2024, arXiv 2407.01082), top-k, top-p (Holtzman et al. 2019, arXiv 1904.09751). Each filter works
on what the filter before it kept. llama.cpp applies its temperature last. This module does not know texts or stop
strings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..seeds import seed_of

MAX_TOP = 20  # alternatives whose log-probabilities can be reported


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen. Raises `InputError` for a value that is not allowed."""

    max_new_tokens: int = 48
    """The answer ends after this many tokens, at least 0. The default is enough for an answer of a sentence or two."""
    temperature: float = 0.0
    """Logits are divided by this number, at least 0. The default, 0, is greedy: it takes the most likely token."""
    seed: int = 0
    """The seed of the draws: the same seed gives the same draws. Any integer."""
    top_k: int = 0
    """Draw from this many most likely tokens only. The default, 0, draws from all, as -1 does."""
    top_p: float = 1.0
    """Draw from the smallest set of most likely tokens that has this much probability only; more than 0, at most 1. The
    default, 1, draws from all."""
    min_p: float = 0.0
    """Draw only from tokens that are at least this fraction as likely as the most likely one, 0 to 1. The default, 0,
    draws from all."""
    repetition_penalty: float = 1.0
    """Positive logits of tokens that are in the prompt or in the answer so far are divided by this number, negative
    ones are multiplied by it. More than 0; the default, 1, changes nothing."""
    stop: tuple[str, ...] = ()
    """Texts that end a served answer. `generate` ignores them: it ends at the model's stop tokens."""
    logprobs: int | None = None
    """How many alternatives a `Choice` reports with their log-probabilities, 0 to 20. The default, None, reports no
    log-probability at all."""

    def __post_init__(self) -> None:
        for name, allowed, what in (
            ("max_new_tokens", self.max_new_tokens >= 0, "at least 0"),
            ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
            ("top_k", self.top_k >= -1, "at least 1, or 0 or -1 for all tokens"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "more than 0"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= MAX_TOP, f"0 to {MAX_TOP}, or none"),
        ):
            if not allowed:
                raise InputError(f"sampling.{name}: {getattr(self, name)} is not allowed; {what}")

    @property
    def greedy(self) -> bool:
        """Whether every token is the one with the largest logit."""
        return self.temperature == 0 and self.repetition_penalty == 1

    def numbered(self, number: int) -> Sampling:
        """These settings with a seed of its own for answer `number` of several. Answer 0 keeps the seed."""
        return replace(self, seed=seed_of(self.seed, number)) if number else self


GREEDY = Sampling()


class Draw(NamedTuple):
    """What one row's next token depends on in addition to its logits."""

    sampling: Sampling
    """The row's settings."""
    step: int
    """Tokens of the answer so far."""
    tokens: Sequence[int] = ()
    """Prompt and answer so far. Only a repetition penalty needs them."""


@dataclass(frozen=True)
class Choice:
    """The token that was chosen."""

    token: int
    """Its id."""
    logprob: float | None = None
    """Its natural log-probability in the model's own distribution, at temperature 1; None when it was not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens, best first, as (token, log-probability)."""


def choose(logits_BV: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """One choice per row of float32 `logits_BV`, with the log-probabilities that the row asks for."""
    tokens = next_tokens(logits_BV, draws)
    reported = [draw.sampling.logprobs for draw in draws]
    return [
        Choice(token) if top is None else _reported(logits_BV[row], token, top)
        for row, (token, top) in enumerate(zip(tokens, reported, strict=True))
    ]


def next_tokens(logits_BV: Tensor, draws: Sequence[Draw]) -> list[int]:
    """One token per row of float32 `logits_BV`, which is not changed. A row whose logits are NaN gets token 0."""
    penalised = [row for row, draw in enumerate(draws) if draw.sampling.repetition_penalty != 1]
    if penalised:
        logits_BV = logits_BV.clone()
        for row in penalised:
            _penalise(logits_BV[row], draws[row].tokens, draws[row].sampling.repetition_penalty)
    token_B = logits_BV.argmax(-1)
    drawn = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if drawn:
        token_B[drawn] = _sampled(logits_BV[drawn], [draws[row] for row in drawn])
    tokens: list[int] = token_B.tolist()
    return tokens


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that is the same on every machine."""
    hashed = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=7).digest()
    return int.from_bytes(hashed, "big") / 2**56


def _penalise(logits_V: Tensor, tokens: Sequence[int], penalty: float) -> None:
    """Makes tokens that occurred less likely, in place. A token that occurred several times is penalised once."""
    seen_N = torch.tensor(sorted(set(tokens)), dtype=torch.long, device=logits_V.device)
    logit_N = logits_V[seen_N]
    logits_V[seen_N] = torch.where(logit_N > 0, logit_N / penalty, logit_N * penalty)


def _sampled(logits_NV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Inverse transform sampling among the tokens that a row's filters keep. Filters keep the most likely tokens."""
    width, settings = logits_NV.shape[-1], [draw.sampling for draw in draws]

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=logits_NV.device)[:, None]

    temperature_N1 = column([s.temperature for s in settings])
    prob_NV, token_NV = torch.softmax(logits_NV / temperature_N1, -1).sort(dim=-1, descending=True, stable=True)
    kept_NV = prob_NV >= column([s.min_p for s in settings]) * prob_NV[:, :1]
    top_k_N1 = column([min(s.top_k, width) if s.top_k > 0 else width for s in settings])
    kept_NV &= torch.arange(width, device=logits_NV.device) < top_k_N1
    prob_NV *= kept_NV
    cumulative_NV = prob_NV.cumsum(-1)
    kept_NV &= cumulative_NV - prob_NV < column([s.top_p for s in settings]) * cumulative_NV[:, -1:]
    kept_NV[:, 0] = True
    mass_N1 = (prob_NV * kept_NV).sum(-1, keepdim=True)
    uniform_N1 = column([uniform(draw.sampling.seed, draw.step) for draw in draws])
    place_N1 = torch.searchsorted(cumulative_NV, uniform_N1 * mass_N1, right=True)
    last_N1 = kept_NV.sum(-1, keepdim=True) - 1
    return token_NV.gather(1, torch.minimum(place_N1, last_N1))[:, 0]


def _reported(logits_V: Tensor, token: int, top: int) -> Choice:
    logprobs_V = torch.log_softmax(logits_V, -1)
    best = torch.topk(logprobs_V, min(top, len(logprobs_V))) if top else None
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else ()
    return Choice(token, float(logprobs_V[token]), tuple(pairs))
