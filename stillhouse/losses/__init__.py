"""How far a student is from its teacher: divergences on sparse signals, chunk likelihoods, inner states."""

from __future__ import annotations

from .divergence import (
    Objective,
    SparseTargets,
    Tail,
    chunked,
    chunked_forward_kl,
    dense_forward_kl,
    distillation_loss,
    sparse_divergence,
    sparse_forward_kl,
)
from .head import through_head
from .terms import Divergence

__all__ = [
    "Divergence",
    "Objective",
    "SparseTargets",
    "Tail",
    "chunked",
    "chunked_forward_kl",
    "dense_forward_kl",
    "distillation_loss",
    "sparse_divergence",
    "sparse_forward_kl",
    "through_head",
]
