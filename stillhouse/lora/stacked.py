"""LoRA's small products in training on a CPU, for rows of several adapters beside each other.

In: T rows, A and B of all slots, and the adapter that each row uses. Out: what the frozen weight gave plus
`scale * B A x`. The kernel in kernels/lora_train.cpp computes it where that is faster. Elsewhere torch does: every row
is multiplied with the adapters of all slots in one product, and a mask keeps its own. That is more arithmetic than
sorting rows by adapter, in a few large products instead of many small ones. An adapter that is not finite then spoils
the rows of the others, so nothing is served this way.

It does not know what the rows are: tokens, or (token, expert) pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..compute.kernels import Call, fields, threads_for, usable

SMALL = 2**14  # values of an adapter up to which starting a product takes most of its time
MANY = 3  # slots from which on too many of the products of a row are thrown away
GRADIENTS = 2**24  # values that the gradients of all threads may have: each thread adds up its own


class RowAdapters(NamedTuple):
    """The adapters that T rows use. Rows up to `ends[e]` belong to expert e."""

    adapter_T: Tensor  # slot * experts + expert, -1: none; the fewer changes from row to row, the faster
    slots: slice | list[int]  # that occur among them
    ends: list[int]
    keep: Callable[[], Tensor | None]  # `[T, slots * rank]`, True at a row's own adapter; None with only one


def add_stacked(
    out_TO: Tensor, x_TI: Tensor, a_SERI: Tensor, b_SERO: Tensor, chosen: RowAdapters, scale: float
) -> Tensor:
    """`out + scale * B A x`, in place where the types allow. Without the kernel products are of the type autocast asks
    for, else of A's."""
    device = x_TI.device.type
    added: Tensor
    small = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else a_SERI.dtype
    with torch.autocast(device, enabled=False):
        if usable(out_TO) and _pays(out_TO, a_SERI, b_SERO, chosen):
            rows = out_TO.contiguous(), x_TI.to(out_TO.dtype)
            added = _KernelProduct.apply(*rows, a_SERI, b_SERO, chosen.adapter_T, scale)  # type: ignore[no-untyped-call]
        else:
            rows = out_TO.to(small), x_TI.to(small)
            added = _StackedProduct.apply(*rows, a_SERI, b_SERO, chosen.slots, chosen.ends, chosen.keep(), scale)  # type: ignore[no-untyped-call]
        return added.to(out_TO.dtype)


def _pays(out_TO: Tensor, a_SERI: Tensor, b_SERO: Tensor, chosen: RowAdapters) -> bool:
    """Whether the kernel is faster than torch. In float32 it always is. In bfloat16 torch multiplies twice as fast, but
    slowly where an adapter is small, and it multiplies every row with the adapters of all slots."""
    if not len(out_TO) or not a_SERI.dtype == b_SERO.dtype == torch.float32:
        return False
    slots = len(a_SERI) if isinstance(chosen.slots, slice) else len(chosen.slots)
    few = a_SERI[0, 0].numel() + b_SERO[0, 0].numel() <= SMALL
    return out_TO.dtype == torch.float32 or few or slots >= MANY


class _KernelCall(Call):
    _fields_ = fields(
        "rows adapters inner rank outer b_rank b_outer",
        "adapter x a b out z gradient x_gradient a_gradient b_gradient",
        "scale",
    )


class _KernelProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, out_TO: Tensor, x_TI: Tensor, a_SERI: Tensor, b_SERO: Tensor, adapter_T: Tensor, scale: float
    ) -> Tensor:
        x_TI, a_SERI, adapter_T = x_TI.contiguous(), a_SERI.contiguous(), adapter_T.contiguous()
        z_TR = a_SERI.new_empty(len(x_TI), a_SERI.shape[2])
        _call(x_TI, a_SERI, b_SERO).run(
            "adapted", x_TI, adapter=adapter_T, x=x_TI, a=a_SERI, b=b_SERO, out=out_TO, z=z_TR, scale=scale
        )
        ctx.mark_dirty(out_TO)
        ctx.save_for_backward(x_TI, a_SERI, b_SERO, adapter_T, z_TR)
        ctx.scale = scale
        return out_TO

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, a_SERI, b_SERO, adapter_T, z_TR = ctx.saved_tensors
        grad_TO, room = grad_TO.contiguous(), GRADIENTS // (a_SERI.numel() + b_SERO.numel())
        threads = max(1, min(threads_for(x_TI), room))
        a_NX, b_NX = (p.new_zeros(threads, p.numel()) for p in (a_SERI, b_SERO))
        optional: dict[str, Tensor] = {"x_gradient": torch.empty_like(x_TI)} if ctx.needs_input_grad[1] else {}
        _call(x_TI, a_SERI, b_SERO).run(
            "adapted_backward", x_TI, threads, adapter=adapter_T, x=x_TI, a=a_SERI, b=b_SERO, z=z_TR, gradient=grad_TO,
            a_gradient=a_NX, b_gradient=b_NX, scale=ctx.scale, **optional,
        )  # fmt: skip
        grads = (
            (s_NX[0] if threads == 1 else s_NX.sum(0)).as_strided(p.shape, p.stride())
            for s_NX, p in ((a_NX, a_SERI), (b_NX, b_SERO))
        )
        return grad_TO, optional.get("x_gradient"), *grads, None, None


def _call(x_TI: Tensor, a_SERI: Tensor, b_SERO: Tensor) -> _KernelCall:
    slots, experts, rank, inner = a_SERI.shape
    return _KernelCall(len(x_TI), slots * experts, inner, rank, b_SERO.shape[3], b_SERO.stride(2), b_SERO.stride(3))


class _StackedProduct(torch.autograd.Function):
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
        a_EGI = (_slots_beside(a_SERI, slots) * scale).to(x_TI.dtype)
        b_EGO = _slots_beside(b_SERO, slots).to(x_TI.dtype)
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
        grads = _slots_apart(grad_a, a_SERI, slots).mul_(scale), _slots_apart(grad_b, b_SERO, slots)
        return grad_TO, grad_x_TI, *grads, None, None, None, None


def _slots_beside(p_SERX: Tensor, slots: slice | list[int]) -> Tensor:
    return p_SERX[slots].transpose(0, 1).flatten(1, 2)


def _slots_apart(grad_EGX: Tensor, like_SERX: Tensor, slots: slice | list[int]) -> Tensor:
    """The opposite, for gradients: zero for every slot that is not in `slots`, in the type of the parameter."""
    experts, _, width = grad_EGX.shape
    grad_SERX = grad_EGX.view(experts, -1, like_SERX.shape[2], width).transpose(0, 1)
    if isinstance(slots, slice):
        return grad_SERX.to(like_SERX.dtype, copy=True)
    whole_SERX = torch.zeros_like(like_SERX)
    whole_SERX[slots] = grad_SERX.to(like_SERX.dtype)
    return whole_SERX
