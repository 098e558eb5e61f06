"""The terms that a divergence is the sum of, and a teacher's sparse distribution at another temperature.

In: logarithms of a weight, of the teacher's and of the student's probability of the same token, any shape. Out: nats,
the same shape. A token that is there by itself weighs its own probability; a draw from the tail weighs what it stands
for, so that a sum over draws has the mean of the sum over the tail.

It does not know positions or vocabularies.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Divergence = Literal["forward", "reverse", "jsd"]


def pointwise(divergence: Divergence, weight: Tensor, teacher: Tensor, student: Tensor, beta: float = 0.5) -> Tensor:
    """weight / p * term(p, q) from the logarithms `weight`, `teacher` (p) and `student` (q); 0 where weight is -inf.

    - forward: p log(p/q)
    - reverse: q log(q/p) - q + p
    - jsd: beta p log(p/m) + (1 - beta) q log(q/m) with m = beta p + (1 - beta) q
    """
    used = ~weight.isneginf()
    weight = torch.where(used, weight, 0).to(student.dtype)
    log_ratio = torch.where(used, student - teacher.to(student.dtype), 0)  # log(q/p)
    teacher_mass = weight.exp()
    if divergence == "forward":
        return torch.where(used, -teacher_mass * log_ratio, 0)
    student_mass = (weight + log_ratio).exp()  # weight * q/p, in one exponent: q/p alone may overflow
    if divergence == "reverse":
        return torch.where(used, student_mass * (log_ratio - 1) + teacher_mass, 0)
    middle = torch.logaddexp(torch.full_like(log_ratio, math.log(beta)), math.log1p(-beta) + log_ratio)  # log(m/p)
    return torch.where(used, (1 - beta) * student_mass * (log_ratio - middle) - beta * teacher_mass * middle, 0)


def tempered(
    ids_PK: Tensor,
    logprobs_PK: Tensor,
    tail_P: Tensor,
    draw_ids_PD: Tensor,
    draw_logprobs_PD: Tensor,
    draw_weights_PD: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `SparseTargets` at `temperature`: probabilities `p^(1/T)`, normalised.

    The mass of the tail at T is estimated from its draws, or taken as one token's where it has none.
    """
    scaled_PK = logprobs_PK / temperature
    used_PD = draw_weights_PD > 0
    weights_PD = draw_weights_PD.log().where(used_PD, 0) + draw_logprobs_PD * (1 / temperature - 1)
    weights_PD = weights_PD.where(used_PD, -torch.inf)
    alone_P = tail_P.clamp(min=0).log() / temperature
    drawn_P = weights_PD.logsumexp(-1) if weights_PD.shape[-1] else torch.full_like(alone_P, -torch.inf)
    rest_P = torch.where(drawn_P.isneginf(), alone_P, drawn_P)
    whole_P = torch.logaddexp(scaled_PK.logsumexp(-1), rest_P)
    return (
        ids_PK,
        scaled_PK - whole_P[:, None],
        (rest_P - whole_P).exp(),
        draw_ids_PD,
        (draw_logprobs_PD / temperature - whole_P[:, None]).where(used_PD, 0),
        (weights_PD - whole_P[:, None]).exp(),
    )
