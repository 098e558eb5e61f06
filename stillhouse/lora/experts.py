"""LoRA inside a mixture of experts whose weights are stacked in two parameters, as transformers stores them.

In: the tokens of a batch, their experts and routing weights from the network's own router, and the slot of each
token. Out: the experts' output, with `W_e + scale * B_e A_e` of the token's slot in place of each W_e. The module's
`forward` is replaced on the instance while attached; without active rows the stock forward runs.

Pairs of (token, expert) are sorted by expert and slot. The frozen weights take one product per expert. A and B take two
batched products over blocks of equally many pairs that share expert and slot, padded with a pair of the same block, so
that no token is multiplied with another slot's weights. In training on a CPU A and B are multiplied as in `stacked.py`,
over rows padded where shapes have to repeat. `reference_forward` is the same, pair by pair.

It knows concatenated and interleaved gates, transposed weights and biases through the attributes transformers sets
(`is_transposed`, `has_bias`); it does not know expert parallelism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compute.experts import FEW_TOKENS, biased, gate, is_known, multiple, oriented, padded, per_expert, product
from ..compute.fused import combined, taken
from ..compute.kernels import usable
from ..errors import ModelError
from .rows import RowSlots
from .sites import Site
from .stacked import RowAdapters, add_stacked


class _Blocks(NamedTuple):
    """S sorted pairs in Q blocks of P. `pair_QP` gathers them into the blocks, `place_S` gathers them back."""

    weight_Q: Tensor  # index into slots * experts
    pair_QP: Tensor
    place_S: Tensor
    live_S1: Tensor | None  # False for pairs of the base alone; None: no such pairs


def attach(
    module: nn.Module, sites: Sequence[Site], scale: float, rows: Callable[[], RowSlots | None]
) -> Callable[[], None]:
    """Replace `module.forward`, with `rows()` asked at every call; returns what undoes it."""
    up, down = sorted(sites, key=lambda s: s.weight.endswith(".down_proj"))
    stock = module.forward
    if not is_known(module):
        raise ModelError(f"{type(module).__name__}: experts of this form cannot be adapted; set experts = false")

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Any:
        active = rows()
        if active is None:
            return stock(hidden_states, top_k_index, top_k_weights)
        slot_N = active.slot_of_token(len(hidden_states), hidden_states.device)
        return adapted_forward(module, hidden_states, top_k_index, top_k_weights, slot_N, (up, down), scale, active)

    had = module.__dict__.get("forward")
    module.forward = forward

    def undo() -> None:
        if had is None:
            del module.forward
        else:
            module.forward = had

    return undo


def adapted_forward(
    module: nn.Module,
    hidden_NH: Tensor,
    expert_NK: Tensor,
    routing_NK: Tensor,
    slot_N: Tensor,
    sites: tuple[Site, Site],
    scale: float,
    rows: RowSlots,
) -> Tensor:
    """The experts' output `[tokens, hidden]` for tokens whose slots are mixed; slot -1 is the base alone."""
    chosen = expert_NK.shape[1]
    slots, experts = sites[0].a.shape[:2]
    slot_S = slot_N.repeat_interleave(chosen)
    key_S, order_S = (expert_NK.reshape(-1) * (slots + 1) + slot_S + 1).sort()
    layout: _Blocks | RowAdapters
    expert_S, few = key_S // (slots + 1), len(hidden_NH) <= FEW_TOKENS
    wide = rows.wide and not few
    if wide:
        ends, pair_T, place_S = padded(expert_S, experts, multiple(module))
        order_T = order_S[pair_T]
        slot_T = slot_S[order_T]
        adapter_T = torch.where(slot_T < 0, -1, slot_T * experts + expert_S[pair_T])
        keep = cache(partial(rows.columns, slot_T, sites[0].a.shape[2]))
        layout = RowAdapters(adapter_T, rows.present, ends, keep)
    else:
        layout, order_T = _blocks(key_S, slots, experts, few), order_S
        place_S = torch.arange(len(order_S), device=order_S.device)
        ends = torch.bincount(expert_S, minlength=experts).cumsum(0).tolist()
    place_NK = torch.empty_like(order_S).index_copy_(0, order_S, place_S).view_as(expert_NK)
    token_T = order_T // chosen
    picked = wide and usable(hidden_NH)
    x_TH = taken(hidden_NH, token_T, place_NK) if picked else hidden_NH.index_select(0, token_T)
    linear = partial(_linear, module, ends=ends, layout=layout, scale=scale)
    out_TH = linear(sites[1], gate(module, linear(sites[0], x_TH, "gate_up_proj")), "down_proj")
    if wide and usable(out_TH):
        return combined(out_TH, place_NK, routing_NK.to(out_TH.dtype)).to(hidden_NH.dtype)
    out_TH = out_TH * routing_NK.reshape(-1)[order_T, None]
    return out_TH.index_select(0, place_NK.flatten()).view(len(hidden_NH), chosen, -1).sum(1).to(hidden_NH.dtype)


def reference_forward(
    module: nn.Module,
    hidden_NH: Tensor,
    expert_NK: Tensor,
    routing_NK: Tensor,
    slot_N: Tensor,
    sites: tuple[Site, Site],
    scale: float,
) -> Tensor:
    """`adapted_forward` by its definition: every pair multiplies its own adapted weight."""
    rows = []
    for n, hidden_H in enumerate(hidden_NH):
        total_H = torch.zeros_like(hidden_H)
        for e, routing in zip(expert_NK[n].tolist(), routing_NK[n], strict=True):
            x = hidden_H
            for site, name in zip(sites, ("gate_up_proj", "down_proj"), strict=True):
                weight_OI = oriented(module, name)[e]
                slot = int(slot_N[n])
                if slot >= 0:
                    weight_OI = weight_OI + scale * (site.b[slot, e].T @ site.a[slot, e])
                x = F.linear(x, weight_OI, _bias(module, name, torch.tensor(e)))
                x = gate(module, x[None])[0] if name == "gate_up_proj" else x
            total_H = total_H + routing * x
        rows.append(total_H)
    return torch.stack(rows)


def _blocks(key_S: Tensor, slots: int, experts: int, few: bool) -> _Blocks:
    slot_S = key_S % (slots + 1) - 1
    live_S1 = None if bool((slot_S >= 0).all()) else (slot_S >= 0)[:, None]
    weight_S = slot_S.clamp(min=0) * experts + key_S // (slots + 1)
    all_S = torch.arange(len(key_S), device=key_S.device)
    if few:
        return _Blocks(weight_S, all_S[:, None], all_S, live_S1)
    _, group_S, count_G = torch.unique_consecutive(key_S, return_inverse=True, return_counts=True)
    size = -(-len(key_S) // len(count_G))
    blocks_G = (count_G + size - 1) // size
    group_Q = torch.repeat_interleave(blocks_G)
    first_G, block_G = count_G.cumsum(0) - count_G, blocks_G.cumsum(0) - blocks_G
    within_Q = torch.arange(len(group_Q), device=key_S.device) - block_G[group_Q]
    start_Q = first_G[group_Q] + within_Q * size
    pair_QP = torch.minimum(start_Q[:, None] + all_S[:size], (first_G + count_G - 1)[group_Q, None])
    place_S = block_G[group_S] * size + all_S - first_G[group_S]
    return _Blocks(weight_S[start_Q], pair_QP, place_S, live_S1)


def _linear(
    module: nn.Module,
    site: Site,
    x_TI: Tensor,
    name: str,
    *,
    ends: list[int],
    layout: _Blocks | RowAdapters,
    scale: float,
) -> Tensor:
    weight_EOI = oriented(module, name)
    device = x_TI.device.type
    small = site.a.dtype
    if torch.is_autocast_enabled(device):
        small = torch.get_autocast_dtype(device)
        weight_EOI = weight_EOI.to(small)
    x_TI = x_TI.to(weight_EOI.dtype)
    with torch.autocast(device, enabled=False):
        out_TO: Tensor
        if isinstance(layout, _Blocks):
            a, b = site.a.flatten(0, 1), site.b.flatten(0, 1)
            out_TO = _BlocksLinear.apply(x_TI, weight_EOI, a, b, ends, layout, scale, small)  # type: ignore[no-untyped-call]
        else:
            out_TO = product(module, name, x_TI, ends)
    if isinstance(layout, RowAdapters):
        out_TO = add_stacked(out_TO, x_TI, site.a, site.b, layout, scale)
    return biased(out_TO, getattr(module, f"{name}_bias", None), ends)


class _BlocksLinear(torch.autograd.Function):
    """`W_e x + scale * B A x` over sorted pairs in blocks; a `[slots * experts, rank, in]`, b `[.., rank, out]`."""

    @staticmethod
    def forward(
        ctx: Any,
        x_SI: Tensor,
        weight_EOI: Tensor,
        a: Tensor,
        b: Tensor,
        ends: list[int],
        layout: _Blocks,
        scale: float,
        small: torch.dtype,
    ) -> Tensor:
        out_SO = per_expert(x_SI, weight_EOI.transpose(1, 2), ends)
        a_QRI, b_QRO = (p.index_select(0, layout.weight_Q).to(small) for p in (a, b))
        z_QPR = torch.bmm(_gathered(x_SI.to(small), layout), a_QRI.transpose(1, 2)) * scale
        out_SO += _pairs(torch.bmm(z_QPR, b_QRO), layout)
        ctx.save_for_backward(x_SI, weight_EOI, a_QRI, b_QRO, z_QPR)
        ctx.rest = ends, layout, scale, a, b
        return out_SO

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_SO: Tensor) -> tuple[Tensor | None, ...]:
        x_SI, weight_EOI, a_QRI, b_QRO, z_QPR = ctx.saved_tensors
        ends, layout, scale, a, b = ctx.rest
        blocks, size = layout.pair_QP.shape
        grad_QPO = grad_SO.new_zeros(blocks * size, grad_SO.shape[1], dtype=a_QRI.dtype)
        grad_QPO.index_copy_(0, layout.place_S, _live(grad_SO, layout).to(a_QRI.dtype))
        grad_QPO = grad_QPO.view(blocks, size, -1)
        grad_z_QPR = torch.bmm(grad_QPO, b_QRO.transpose(1, 2)) * scale
        x_QPI = _gathered(x_SI.to(a_QRI.dtype), layout)
        grad_a = _spread(a, layout, torch.bmm(grad_z_QPR.transpose(1, 2), x_QPI))
        grad_b = _spread(b, layout, torch.bmm(z_QPR.transpose(1, 2), grad_QPO))
        grad_x_SI = None
        if ctx.needs_input_grad[0]:
            grad_x_SI = per_expert(grad_SO, weight_EOI, ends)
            grad_x_SI += _pairs(torch.bmm(grad_z_QPR, a_QRI), layout)
        return grad_x_SI, None, grad_a, grad_b, None, None, None, None


def _gathered(x_SI: Tensor, layout: _Blocks) -> Tensor:
    return x_SI.index_select(0, layout.pair_QP.flatten()).view(*layout.pair_QP.shape, -1)


def _pairs(delta_QPO: Tensor, layout: _Blocks) -> Tensor:
    return _live(delta_QPO.flatten(0, 1).index_select(0, layout.place_S), layout)


def _live(delta_SO: Tensor, layout: _Blocks) -> Tensor:
    return delta_SO if layout.live_S1 is None else torch.where(layout.live_S1, delta_SO, 0)


def _spread(stack: Tensor, layout: _Blocks, grad_Q: Tensor) -> Tensor:
    return torch.zeros_like(stack).index_add_(0, layout.weight_Q, grad_Q.to(stack.dtype))


def _bias(module: nn.Module, name: str, expert: Tensor) -> Tensor | None:
    bias_EO: Tensor | None = getattr(module, f"{name}_bias", None)
    return None if bias_EO is None else bias_EO[expert]
