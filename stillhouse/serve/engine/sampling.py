"""The next token of each row, from its own settings and its own seed.

In: next-token logits of a batch and, per row, how to draw. Out: one `Choice` per row. A row's draw depends on its
logits, its seed and its step alone: the uniform number is a hash of seed and step (BLAKE2b), and the token is where it
falls in the row's cumulative distribution, most likely token first. Nucleus sampling is Holtzman et al. 2019,
arXiv 1904.09751. It does not know texts or stops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_TOP = 20  # alternatives whose log-probabilities can be asked for


@dataclass(frozen=True)
class Draw:
    """How one row chooses. `temperature` 0 is greedy. `top`: alternatives to report; None: no log-probability."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    step: int = 0
    top: int | None = None


@dataclass(frozen=True)
class Choice:
    """A token. `logprob` is of the model's own distribution, at temperature 1; `top`: (token, logprob), best first."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits_BV: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """One choice per row of float32 `logits_BV`. Logits that are not numbers are an adapter's fault: token 0 then."""
    best_B = logits_BV.argmax(-1)
    drawn = [i for i, draw in enumerate(draws) if draw.temperature > 0]
    if drawn:
        best_B = best_B.clone()
        best_B[drawn] = _sampled(logits_BV[drawn], [draws[i] for i in drawn])
    tokens = best_B.tolist()
    asked = {i for i, draw in enumerate(draws) if draw.top is not None}
    return [
        _reported(logits_BV[i], token, draws[i].top or 0) if i in asked else Choice(token)
        for i, token in enumerate(tokens)
    ]


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that is the same on every machine."""
    hashed = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=7).digest()
    return int.from_bytes(hashed, "big") / 2**56


def _sampled(logits_NV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Inverse transform sampling within each row's nucleus: the smallest set of tokens with mass >= top_p."""
    device = logits_NV.device
    heat_N1 = torch.tensor([[draw.temperature] for draw in draws], device=device)
    nucleus_N1 = torch.tensor([[draw.top_p] for draw in draws], device=device)
    uniform_N1 = torch.tensor([[uniform(draw.seed, draw.step)] for draw in draws], device=device)
    chance_NV, order_NV = torch.softmax(logits_NV / heat_N1, -1).sort(dim=-1, descending=True, stable=True)
    below_NV = chance_NV.cumsum(-1)
    inside_NV = below_NV - chance_NV < nucleus_N1
    inside_NV[:, 0] = True
    mass_N1 = (chance_NV * inside_NV).sum(-1, keepdim=True)
    place_N1 = torch.searchsorted(below_NV, uniform_N1 * mass_N1, right=True)
    last_N1 = inside_NV.sum(-1, keepdim=True) - 1
    return order_NV.gather(1, torch.minimum(place_N1, last_N1))[:, 0]


def _reported(logits_V: Tensor, token: int, top: int) -> Choice:
    logprobs_V = torch.log_softmax(logits_V, -1)
    best = torch.topk(logprobs_V, min(top, len(logprobs_V))) if top else None
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else ()
    return Choice(token, float(logprobs_V[token]), tuple(pairs))
