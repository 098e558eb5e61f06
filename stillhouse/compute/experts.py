"""A mixture's experts as transformers stacks them: (token, expert) pairs sorted by expert, a product for each expert.

In: a module with all experts' weights in two parameters, tokens, and the network's own choice of experts. Out: the
order of the pairs, and the products of the frozen weights on them, from packed copies where there are some. It knows
concatenated and interleaved gates, transposed weights and biases through the attributes transformers sets
(`is_transposed`, `has_bias`) and their gate (`expert_gate.py`); it does not know adapters, nor expert parallelism.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .expert_gate import gate_of
from .fused import between, combined, taken
from .kernels import built, usable
from .packed import BYTES, Once, PackedWeight, anew, pack, packed_experts
from .patch import is_plain, replace

FEW_TOKENS = 64  # up to here no row is worth adding to make shapes repeat
ROWS = 32  # that an expert's are a multiple of, where shapes have to repeat


class Pairs(NamedTuple):
    """T rows of pairs, those of an expert up to its end; row t is pair `order_T[t]` of N tokens times K choices, and
    the pairs of token n are in rows `place_NK[n]`. With `padded` rows some stand there twice."""

    ends: list[int]
    order_T: Tensor
    place_NK: Tensor


def is_known(module: nn.Module) -> bool:
    """Whether these are experts of the form that is computed here."""
    stacked = all(
        isinstance(weight := getattr(module, name, None), nn.Parameter) and weight.dim() == 3
        for name in ("gate_up_proj", "down_proj")
    )
    plain = not getattr(module, "has_post_expert_norm", False) and getattr(module, "has_gate", True)
    return stacked and plain and gate_of(module) is not None


def multiple(module: nn.Module) -> int:
    """Of how many rows every expert's are a multiple: oneDNN, which multiplies bfloat16 and packed weights, compiles a
    product for every new shape."""
    compiled = torch.is_autocast_enabled("cpu") or packed_experts(module, "down_proj") is not None
    return ROWS if compiled else 1


def padded(expert_S: Tensor, experts: int, rows: int) -> tuple[list[int], Tensor, Tensor]:
    """For pairs sorted by expert, every expert's rows padded to a multiple of `rows`: the end of each, the pair of each
    row (`pair_T`), the row of each pair (`place_S`)."""
    count_E = torch.bincount(expert_S, minlength=experts)
    padded_E = (count_E + rows - 1) // rows * rows
    end_E, first_E = padded_E.cumsum(0), count_E.cumsum(0) - count_E
    expert_T = torch.repeat_interleave(padded_E)
    within_T = torch.arange(len(expert_T), device=expert_S.device) - (end_E - padded_E)[expert_T]
    pair_T = first_E[expert_T] + torch.minimum(within_T, count_E[expert_T] - 1)
    all_S = torch.arange(len(expert_S), device=expert_S.device)
    return end_E.tolist(), pair_T, (end_E - padded_E)[expert_S] + all_S - first_E[expert_S]


def sorted_pairs(expert_NK: Tensor, experts: int, rows: int) -> Pairs:
    """The pairs by expert, padded to a multiple of `rows` where they are many."""
    expert_S, order_S = expert_NK.reshape(-1).sort(stable=True)
    place_NK = torch.empty_like(order_S)
    if len(expert_NK) > FEW_TOKENS and rows > 1:
        ends, pair_T, place_S = padded(expert_S, experts, rows)
        return Pairs(ends, order_S[pair_T], place_NK.index_copy_(0, order_S, place_S).view_as(expert_NK))
    ends = torch.bincount(expert_S, minlength=experts).cumsum(0).tolist()
    place_S = torch.arange(len(order_S), device=order_S.device)
    return Pairs(ends, order_S, place_NK.index_copy_(0, order_S, place_S).view_as(expert_NK))


def product(module: nn.Module, name: str, x_TI: Tensor, ends: list[int]) -> Tensor:
    """`W_e x` of rows sorted by expert, without biases; gradients of x alone."""
    weight_EOI = oriented(module, name).to(x_TI.dtype)
    packed = packed_experts(module, name) if weight_EOI.dtype == torch.float32 else None
    out_TO: Tensor = _Experts.apply(x_TI, weight_EOI, ends, packed)  # type: ignore[no-untyped-call]
    return out_TO


def per_expert(x_SI: Tensor, weight_EIO: Tensor, ends: list[int]) -> Tensor:
    """`x W_e` of rows sorted by expert."""
    out_SO = x_SI.new_empty(len(x_SI), weight_EIO.shape[2])
    for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if end > start:
            torch.mm(x_SI[start:end], weight_EIO[expert], out=out_SO[start:end])
    return out_SO


def biased(out_TO: Tensor, bias_EO: Tensor | None, ends: list[int]) -> Tensor:
    """Every expert's bias, where it has one, on its rows."""
    if bias_EO is None:
        return out_TO
    counts_E = torch.tensor(ends, device=out_TO.device).diff(prepend=torch.zeros_like(bias_EO[:1, 0], dtype=torch.long))
    return out_TO + bias_EO.repeat_interleave(counts_E, 0)


def oriented(module: nn.Module, name: str) -> Tensor:
    """A stack of weights as `[experts, out, in]`."""
    weight: Tensor = getattr(module, name)
    return weight.transpose(1, 2) if getattr(module, "is_transposed", False) else weight


def gate(module: Any, gate_up_TI: Tensor) -> Tensor:
    """The module's own gate of its first product."""
    own = gate_of(module)
    assert own is not None, "not a known expert module"
    return own(gate_up_TI)


@contextmanager
def answering(network: nn.Module, limit: int = BYTES, once: Once = anew) -> Iterator[None]:
    """Inside, a frozen network on a CPU answers many rows at a time without gradients, as fast as it can: from packed
    weights where that is faster, experts too, as far as `limit` bytes of copies go, and with the kernels between its
    products. `once` keeps what a trial has shown."""
    with ExitStack() as undone:
        undone.callback(pack(network, limit, experts=True, once=once))
        undone.enter_context(between(network))
        for module in network.modules():
            if built() and is_known(module) and is_plain(module) and module.down_proj.device.type == "cpu":
                undone.callback(_put(module))
        yield


def _put(module: nn.Module) -> Callable[[], None]:
    stock = module.forward
    return replace(module, partial(_forward, module, stock))


def _forward(module: Any, stock: Callable[..., Any], hidden_NH: Tensor, expert_NK: Tensor, routing_NK: Tensor) -> Any:
    """The experts' output `[tokens, hidden]`; what was there before where gradients are wanted or types differ."""
    weight = module.gate_up_proj
    plain = hidden_NH.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if torch.is_grad_enabled() or not plain or not usable(hidden_NH):
        return stock(hidden_NH, expert_NK, routing_NK)
    ends, order_T, place_NK = sorted_pairs(expert_NK, len(weight), multiple(module))
    rows_TX = taken(hidden_NH, order_T // expert_NK.shape[1], place_NK)
    for name in ("gate_up_proj", "down_proj"):
        rows_TX = biased(product(module, name, rows_TX, ends), getattr(module, f"{name}_bias", None), ends)
        rows_TX = gate(module, rows_TX) if name == "gate_up_proj" else rows_TX
    return combined(rows_TX, place_NK, routing_NK.to(rows_TX.dtype))


class _Experts(torch.autograd.Function):
    """`W_e x` over pairs sorted by expert; W frozen."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, weight_EOI: Tensor, ends: list[int], packed_E: list[PackedWeight] | None = None
    ) -> Tensor:
        ctx.save_for_backward(weight_EOI)
        ctx.ends, ctx.packed_E = ends, packed_E
        if packed_E is not None:
            return torch.cat([packed_E[e](x_PI) for e, x_PI in _parts(x_TI, ends)])
        return per_expert(x_TI, weight_EOI.transpose(1, 2), ends)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        (weight_EOI,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        if ctx.packed_E is not None:
            parts = [ctx.packed_E[e].back(grad_PO) for e, grad_PO in _parts(grad_TO, ctx.ends)]
            return torch.cat(parts), None, None, None
        return per_expert(grad_TO, weight_EOI, ctx.ends), None, None, None


def _parts(rows_TX: Tensor, ends: list[int]) -> list[tuple[int, Tensor]]:
    """(expert, its rows) of every expert that has some."""
    spans = enumerate(zip([0, *ends], ends, strict=False))
    return [(expert, rows_TX[start:end]) for expert, (start, end) in spans if end > start]
