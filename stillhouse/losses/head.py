"""Hidden states through the LM head, some positions at a time, and the student's log-probabilities of a few ids.

In: hidden states, the head, and a function of logits. Out: the function's values, one row a position, with exact
gradients. Only one chunk's logits exist at a time. Where the head is frozen (an adapter is trained) a chunk's gradient
is taken while its logits are still there, as Hsu et al. 2024 do (Liger Kernel, arXiv 2410.10989). Where the head
learns, each chunk's logits are computed again in the backward pass. It does not know teachers or divergences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..errors import InputError

Head = Callable[[Tensor], Tensor]


def through_head(hidden_PH: Tensor, head: Head, part: Callable[[Tensor, int], Tensor], chunk: int) -> Tensor:
    """`part(head(hidden), start)` over chunks of positions, one after the other.

    `part` gives one value a position, `[p]`, or a few, `[p, n]`, made from that position alone.
    """
    if chunk < 1:
        raise InputError(f"chunk: {chunk} is not a positive number of positions")

    def one(hidden_pH: Tensor, start: int) -> Tensor:
        return part(head(hidden_pH), start)

    pieces = list(zip(torch.split(hidden_PH, chunk), range(0, max(len(hidden_PH), 1), chunk), strict=True))
    if not torch.is_grad_enabled():
        return torch.cat([one(*piece) for piece in pieces])
    if hidden_PH.requires_grad and not _learns(head, hidden_PH):
        values, gradients = map(list, zip(*(_with_gradient(one, *piece) for piece in pieces), strict=True))
        slopes_NPH = torch.cat(gradients, 1)
        known: Tensor = _Known.apply(hidden_PH, torch.cat(values), slopes_NPH)  # type: ignore[no-untyped-call]
        return known
    if len(pieces) == 1:
        return one(*pieces[0])
    return torch.cat([checkpoint(one, *p, use_reentrant=False, preserve_rng_state=False) for p in pieces])


def logprobs_at(logits_PV: Tensor, ids_PJ: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of J ids, `[P, J]`, and the normaliser (log-sum-exp) of every position, `[P]`.

    In float32 or better, with one `[P, V]` buffer for values and gradient together; autograd by itself takes many.
    """
    both: tuple[Tensor, Tensor] = _LogprobsAt.apply(logits_PV, ids_PJ)  # type: ignore[no-untyped-call]
    return both


def dense_kl(logits_PV: Tensor, teacher_logprobs_PV: Tensor) -> Tensor:
    """KL(teacher || student) over whole rows, `[P]`; the student's gradient is made on the way, in a buffer or two."""
    kl_P: Tensor = _DenseKL.apply(logits_PV, teacher_logprobs_PV)  # type: ignore[no-untyped-call]
    return kl_P


def precise(values: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return values.to(_type(values))


def _type(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _learns(head: Head, hidden_PH: Tensor) -> bool:
    """Whether something of `head` itself gets a gradient; asked with no rows, which costs nothing."""
    return head(hidden_PH[:0].detach()).requires_grad


def _with_gradient(one: Callable[[Tensor, int], Tensor], hidden_pH: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Values `[p]` or `[p, n]` of a chunk, and the gradient of each by its own hidden state, `[n, p, H]`."""
    leaf_pH = hidden_pH.detach().requires_grad_()
    value = one(leaf_pH, start)
    columns = _columns(value).unbind(1)
    with torch.autocast(value.device.type, enabled=False):  # the backward pass of autocast's products is cast already
        gradients = [
            torch.autograd.grad(column.sum(), leaf_pH, retain_graph=column is not columns[-1])[0] for column in columns
        ]
    return value.detach(), torch.stack(gradients)


def _columns(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim == 1 else values


class _Known(torch.autograd.Function):
    """Values whose gradients are there already."""

    @staticmethod
    def forward(ctx: Any, hidden_PH: Tensor, values: Tensor, gradients_NPH: Tensor) -> Tensor:
        ctx.save_for_backward(gradients_NPH)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradients_NPH,) = ctx.saved_tensors
        weight_NP1 = _columns(upstream).T[..., None].to(gradients_NPH.dtype)
        return (weight_NP1 * gradients_NPH).sum(0), None, None


class _LogprobsAt(torch.autograd.Function):
    """Keeps the softmax, which the backward pass turns into the gradient in place."""

    @staticmethod
    def forward(ctx: Any, logits_PV: Tensor, ids_PJ: Tensor) -> tuple[Tensor, Tensor]:
        softmax_PV = logits_PV.softmax(-1, dtype=_type(logits_PV))
        most_P1 = logits_PV.amax(-1, keepdim=True).to(softmax_PV.dtype)
        normaliser_P1 = most_P1 - softmax_PV.amax(-1, keepdim=True).log()
        ctx.save_for_backward(softmax_PV, ids_PJ)
        ctx.dtype = logits_PV.dtype
        return logits_PV.gather(-1, ids_PJ).to(softmax_PV.dtype) - normaliser_P1, normaliser_P1[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_PJ: Tensor, normaliser_P: Tensor) -> tuple[Tensor, None]:
        softmax_PV, ids_PJ = ctx.saved_tensors
        gradient_PV = softmax_PV.mul_((normaliser_P - at_PJ.sum(-1))[:, None]).scatter_add_(-1, ids_PJ, at_PJ)
        return gradient_PV.to(ctx.dtype), None


class _DenseKL(torch.autograd.Function):
    """Keeps `softmax - teacher`, the gradient for a teacher that sums to one. None flows to the teacher."""

    @staticmethod
    def forward(ctx: Any, logits_PV: Tensor, teacher_logprobs_PV: Tensor) -> Tensor:
        student_PV = logits_PV.log_softmax(-1, dtype=_type(logits_PV))
        teacher_PV = teacher_logprobs_PV.to(student_PV.dtype)
        p_PV = teacher_PV.exp()
        kl_P = (teacher_PV - student_PV).mul_(p_PV).masked_fill_(p_PV == 0, 0).sum(-1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(student_PV.exp_().mul_(p_PV.sum(-1, keepdim=True)).sub_(p_PV))
        ctx.dtype = logits_PV.dtype
        return kl_P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_P: Tensor) -> tuple[Tensor, None]:
        (slope_PV,) = ctx.saved_tensors
        return (slope_PV * upstream_P[:, None]).to(ctx.dtype), None
