"""How far a student's inner states are from a teacher's: hidden states through a projection, and choices of experts.

In: hidden states of P positions on both sides and, where their widths differ, what makes one of the other; or router
logits and the teacher's sparse distribution over experts. Out: one value per position, `[P]`; weighting is the
caller's. Matching hidden states through a learned projection is Romero et al. 2015 (FitNets, arXiv 1412.6550).

It does not know layers, models or tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .divergence import SparseTargets, sparse_divergence
from .head import through_head

LEAST = 1e-12


def hidden_distance(
    student_PH: Tensor, teacher_PG: Tensor, project: Callable[[Tensor], Tensor], chunk: int = 1024
) -> Tensor:
    """`|project(student) - teacher|^2 / |teacher|^2` per position: 0 where they agree, 1 where nothing is said.

    At most `chunk` projected positions are held at a time. `project` maps `[p, H]` to `[p, G]`.
    """
    size_P = teacher_PG.square().sum(-1).clamp(min=LEAST)

    def part(projected_pG: Tensor, start: int) -> Tensor:
        here = slice(start, start + len(projected_pG))
        difference_pG = projected_pG.to(teacher_PG.dtype) - teacher_PG[here]
        return difference_pG.square().sum(-1) / size_P[here]

    return through_head(student_PH, project, part, chunk)


def routing_divergence(logits_PE: Tensor, targets: SparseTargets) -> Tensor:
    """KL(teacher's choice of experts || student's) in nats; experts that were not kept are one more."""
    return sparse_divergence(logits_PE, targets, "forward", "ghost")
