"""Muon for adapters: a step moves all directions of a matrix by the same amount.

In: the sites of an AdapterBank, with gradients. Out: their A and B, moved. A momentum is replaced by the nearest matrix
whose singular values are all one (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon). Each slot and each
expert has a matrix of its own, so an adapter trains as it would alone. The entries of B move about as Adam's do (Liu et
al. 2025, arXiv 2502.16982). The entries of A move less the more inputs they add up (Hayou et al. 2024, arXiv
2402.12354). So one learning rate is good for networks of any width.

It does not know losses or schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..lora import Site

MOMENTUM = 0.9
RMS = 0.2  # of what a step adds to B's entries, in learning rates
WIDTH = 256  # inputs for which a step adds as much to A's
DAMPING = 1e-2  # of the largest singular value: directions far below it are noise


class Muon:
    """The optimiser of all slots. `momenta` are those of A and B of every site, in order."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = sites
        self.momenta = [torch.zeros_like(p) for site in sites for p in (site.a, site.b)]

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {f"momentum/{i}": momentum for i, momentum in enumerate(self.momenta)}

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> None:
        """Move every site that has gradients, slot i by the learning rate `rates[i]`, and drop the gradients."""
        most = max(rates)
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = {}  # few, large operators
        for site, *momenta in zip(self.sites, self.momenta[::2], self.momenta[1::2], strict=True):
            if site.a.grad is None or site.b.grad is None:
                continue
            ahead = site.as_rows(*(_ahead(p, m) for p, m in zip((site.a, site.b), momenta, strict=True)))
            sizes = (RMS * WIDTH / site.a.shape[-1] ** 0.5, RMS * ahead[1].shape[-1] ** 0.5)
            for values, move, size in zip(site.as_rows(site.a, site.b), ahead, sizes, strict=True):
                by_shape.setdefault(tuple(move.shape[-2:]), []).append((values, move, size))
            site.a.grad = site.b.grad = None
        for same in by_shape.values():
            matrices = torch.cat([move.flatten(0, 1) for _, move, _ in same])
            turned = orthogonal(matrices).split([move.shape[0] * move.shape[1] for _, move, _ in same])
            for (values, move, size), matrix in zip(same, turned, strict=True):
                share_S = torch.tensor([rate / most for rate in rates], device=matrix.device, dtype=matrix.dtype)
                values.sub_(matrix.view(move.shape) * share_S.view(-1, 1, 1, 1), alpha=most * size)


def orthogonal(matrix_NRW: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows, (M M')^-1/2 M, damped; zeros stay zeros. float32."""
    matrix_NRW = matrix_NRW.float()
    value_NR, vector_NRR = torch.linalg.eigh((matrix_NRW @ matrix_NRW.mT).double())
    least_N1 = (DAMPING**2 * value_NR[:, -1:]).clamp(min=1e-30)
    root_NR = (value_NR.clamp(min=0) + least_N1).rsqrt()
    turned_NRW: Tensor = ((vector_NRR * root_NR[:, None]) @ vector_NRR.mT).float() @ matrix_NRW
    return turned_NRW


def _ahead(parameter: nn.Parameter, momentum: Tensor) -> Tensor:
    """The gradient with its momentum, as Nesterov has it."""
    gradient = parameter.grad
    assert gradient is not None, "only sites with gradients are moved"
    momentum.lerp_(gradient, 1 - MOMENTUM)
    return torch.lerp(gradient, momentum, MOMENTUM)
