"""How far a student's likelihood of a stretch of bytes is from the teacher's, whatever tokens either uses for it.

In: log-likelihoods of C chunks under both. Out: nats per chunk, `[C]`. The binarised KL of Approximate Likelihood
Matching (Minixhofer et al. 2025, arXiv 2503.20083): between "this chunk" and "anything else", both sharpened by a
temperature so that a chunk nobody expects still has a gradient.

It does not know tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-6  # nats of surprise: below, a chunk is certain, and its complement has no logarithm


def chunk_divergence(student_C: Tensor, teacher_C: Tensor, temperature: float = 100.0) -> Tensor:
    """`temperature * KL(Bernoulli(p^(1/T)) || Bernoulli(q^(1/T)))` of log-likelihoods p (teacher) and q (student)."""
    student_C = student_C.clamp(max=-LEAST) / temperature
    teacher_C = teacher_C.to(student_C.dtype).clamp(max=-LEAST) / temperature
    inside_C = teacher_C.exp() * (teacher_C - student_C)
    outside_C = -torch.expm1(teacher_C) * (_log_complement(teacher_C) - _log_complement(student_C))
    return temperature * (inside_C + outside_C)


def _log_complement(log_C: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0."""
    return torch.log(-torch.expm1(log_C))
