"""The small products of several adapters as one: what a CPU does best in training.

In: T rows, A and B of the G = slots * rank rows of all adapters side by side, and whose rows they are. Out: what the
frozen weight gave plus `scale * B A x`. Every row meets every adapter, and a mask keeps its own: more arithmetic than
sorting rows by adapter, in a few big products instead of many small ones. An adapter that is not finite spoils the
others' rows, so nothing is served this way. It does not know what the rows are: tokens, or (token, expert) pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def add_wide(
    out_TO: Tensor,
    x_TI: Tensor,
    a_SERI: Tensor,
    b_SERO: Tensor,
    slots: slice | list[int],
    ends: list[int],
    keep_TG: Tensor | None,
    scale: float,
) -> Tensor:
    """`out + scale * B A x`, in place where the types allow. Of A and B, `slots` stand side by side. Rows up to
    `ends[e]` belong to expert e; `keep_TG` is True at a row's own adapter, None with only one. The products are of the
    type autocast asks for, else of A's."""
    device = x_TI.device.type
    small = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else a_SERI.dtype
    with torch.autocast(device, enabled=False):
        rows = out_TO.to(small), x_TI.to(small)
        added: Tensor = _Wide.apply(*rows, a_SERI, b_SERO, slots, ends, keep_TG, scale)  # type: ignore[no-untyped-call]
        return added.to(out_TO.dtype)


class _Wide(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        out_TO: Tensor,
        x_TI: Tensor,
        a_SERI: Tensor,
        b_SERO: Tensor,
        slots: slice | list[int],
        ends: list[int],
        keep_TG: Tensor | None,
        scale: float,
    ) -> Tensor:
        a_EGI = (_side_by_side(a_SERI, slots) * scale).to(x_TI.dtype)
        b_EGO = _side_by_side(b_SERO, slots).to(x_TI.dtype)
        z_TG = x_TI.new_empty(len(x_TI), a_EGI.shape[1])
        for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            torch.mm(x_TI[start:end], a_EGI[expert].T, out=z_TG[start:end])
        if keep_TG is not None:
            z_TG *= keep_TG
        for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            out_TO[start:end].addmm_(z_TG[start:end], b_EGO[expert])
        ctx.mark_dirty(out_TO)
        ctx.save_for_backward(x_TI, a_EGI, b_EGO, z_TG, keep_TG)
        ctx.rest = a_SERI, b_SERO, slots, ends, scale
        return out_TO

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, a_EGI, b_EGO, z_TG, keep_TG = ctx.saved_tensors
        a_SERI, b_SERO, slots, ends, scale = ctx.rest
        spans = list(zip([0, *ends], ends, strict=False))
        grad_a, grad_b, grad_z_TG = torch.empty_like(a_EGI), torch.empty_like(b_EGO), torch.empty_like(z_TG)
        grad_x_TI = torch.empty_like(x_TI) if ctx.needs_input_grad[1] else None
        for expert, (start, end) in enumerate(spans):
            torch.mm(grad_TO[start:end], b_EGO[expert].T, out=grad_z_TG[start:end])
            torch.mm(z_TG[start:end].T, grad_TO[start:end], out=grad_b[expert])
        if keep_TG is not None:
            grad_z_TG *= keep_TG
        for expert, (start, end) in enumerate(spans):
            torch.mm(grad_z_TG[start:end].T, x_TI[start:end], out=grad_a[expert])
            if grad_x_TI is not None:
                torch.mm(grad_z_TG[start:end], a_EGI[expert], out=grad_x_TI[start:end])
        grads = _apart(grad_a, a_SERI, slots).mul_(scale), _apart(grad_b, b_SERO, slots)
        return grad_TO, grad_x_TI, *grads, None, None, None, None


def _side_by_side(p_SERX: Tensor, slots: slice | list[int]) -> Tensor:
    return p_SERX[slots].transpose(0, 1).flatten(1, 2)


def _apart(grad_EGX: Tensor, like_SERX: Tensor, slots: slice | list[int]) -> Tensor:
    """The opposite, for gradients: zero for every slot that is not in `slots`, in the type of the parameter."""
    experts, _, width = grad_EGX.shape
    grad_SERX = grad_EGX.view(experts, -1, like_SERX.shape[2], width).transpose(0, 1)
    if isinstance(slots, slice):
        return grad_SERX.to(like_SERX.dtype, copy=True)
    whole_SERX = torch.zeros_like(like_SERX)
    whole_SERX[slots] = grad_SERX.to(like_SERX.dtype)
    return whole_SERX
