"""AdamW for all weights of a network or for adapters side by side (Loshchilov and Hutter 2019, arXiv 1711.05101).

In: parameters with gradients. Out: the parameters, moved, every slot by a learning rate of its own. With several slots
the first dimension of every parameter is the slot.

It does not know losses or schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.98)


class AdamW:
    """torch's AdamW with a learning rate for each slot."""

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float) -> None:
        self.parameters = parameters
        self.inner = torch.optim.AdamW(parameters, betas=BETAS, weight_decay=weight_decay)
        for p in parameters:  # as torch makes it in the first step; a checkpoint is read before that
            moments = {name: torch.zeros_like(p.detach()) for name in ("exp_avg", "exp_avg_sq")}
            self.inner.state[p] = {"step": torch.zeros(())} | moments

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> None:
        """One step in which slot i has the learning rate `rates[i]`; 0 leaves it as it is. Drops the gradients."""
        most = max(rates)
        for group in self.inner.param_groups:
            group["lr"] = most
        before = [p.detach().clone() for p in self.parameters] if min(rates) < most else []
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        for p, old in zip(self.parameters, before, strict=False):
            share_S = torch.tensor([r / most for r in rates], device=p.device, dtype=p.dtype)
            p.copy_(torch.lerp(old, p, share_S.view(-1, *[1] * (p.dim() - 1))))

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        moments = [self.inner.state[p] for p in self.parameters]
        return {f"{name}/{i}": tensor for i, own in enumerate(moments) for name, tensor in own.items()}
