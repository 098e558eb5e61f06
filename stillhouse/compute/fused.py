"""What lies between a network's matrix products, in one pass over memory each (kernels/between.cpp): training on a CPU.

In: tensors on the CPU, all float32 or all bfloat16, and frozen weights. Out: RMSNorm (Zhang and Sennrich 2019, arXiv
1910.07467), gates by SiLU (Shazeer 2020, arXiv 2002.05202), the sum over a token's experts, and causal attention within
rows that lie one after the other, each with its gradient; and a context in which a network's own norms and gates are
these. A part of a network is replaced only where a trial shows that both compute the same.

It does not know adapters, rows' owners or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .expert_gate import gate_of, is_replaced, replace_gate
from .kernels import Call, built, fields, usable
from .patch import is_plain, replace


def norm(x: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """`x / rms(x) * (weight + offset)` over the last dimension."""
    y: Tensor = _Norm.apply(x, weight_D, eps, offset)  # type: ignore[no-untyped-call]
    return y


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, of one shape."""
    assert gate.shape == up.shape, f"gate {tuple(gate.shape)}, up {tuple(up.shape)}"
    y: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


def gated_halves(gate_up: Tensor) -> Tensor:
    """The same of one tensor whose last dimension is gate, then up."""
    y: Tensor = _GatedHalves.apply(gate_up)  # type: ignore[no-untyped-call]
    return y


def taken(x_NH: Tensor, token_T: Tensor, place_NK: Tensor) -> Tensor:
    """Rows of `x` by number, `[T, H]`; row n went to `place[n]`, and to others that nobody reads."""
    x_TH: Tensor = _Taken.apply(x_NH, token_T, place_NK)  # type: ignore[no-untyped-call]
    return x_TH


def combined(x_TH: Tensor, place_NK: Tensor, weight_NK: Tensor) -> Tensor:
    """`sum over k of weight[n, k] * x[place[n, k]]`, `[N, H]`. No row of `x` stands at two places."""
    y_NH: Tensor = _Combined.apply(x_TH, place_NK, weight_NK)  # type: ignore[no-untyped-call]
    return y_NH


def attention(
    query_TQD: Tensor, keys_TGD: Tensor, values_TGD: Tensor, start_B: Tensor, window: int | None, scale: float
) -> Tensor:
    """Causal attention, `[T, Q, D]`, within rows: row b from `start[b]` to `start[b + 1]`, the last start is T. A token
    sees the `window` newest, itself one of them. Q heads share G keys, Q / G neighbours each."""
    y_TQD: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query_TQD, keys_TGD, values_TGD, start_B, len(query_TQD) + 1 if window is None else window, scale
    )
    return y_TQD


@contextmanager
def between(network: nn.Module) -> Iterator[None]:
    """Inside, RMSNorms with frozen weights, and gates by SiLU without clamps, are the kernels'."""
    with ExitStack() as undone:
        for module in network.modules() if built() else ():
            if undo := _replaced(module):
                undone.callback(undo)
        yield


class _NormCall(Call):
    _fields_ = fields("rows width", "x weight y y_gradient x_gradient inverse", "eps offset")


class _GatedCall(Call):
    _fields_ = fields("rows width stride", "gate up y y_gradient gate_gradient up_gradient")


class _CombinedCall(Call):
    _fields_ = fields("rows chosen width", "place x weight y y_gradient x_gradient weight_gradient")


class _AttentionCall(Call):
    _fields_ = fields(
        "rows heads shared dim window",
        "start query keys values y y_gradient query_gradient keys_gradient values_gradient normaliser",
        "scale",
    )


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float, offset: float) -> Tensor:
        x, weight_D = x.contiguous(), weight_D.contiguous()
        width = x.shape[-1]
        y, inverse_R = torch.empty_like(x), x.new_empty(x.numel() // width, dtype=torch.float32)
        call = _NormCall(len(inverse_R), width)
        call.run("norm", x, x=x, weight=weight_D, y=y, inverse=inverse_R, eps=eps, offset=offset)
        ctx.save_for_backward(x, weight_D, inverse_R)
        ctx.offset = offset
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D, inverse_R = ctx.saved_tensors
        grad, gradient = grad.contiguous(), torch.empty_like(x)
        call = _NormCall(len(inverse_R), x.shape[-1])
        call.run(
            "norm_backward",
            x,
            x=x,
            weight=weight_D,
            y_gradient=grad,
            x_gradient=gradient,
            inverse=inverse_R,
            offset=ctx.offset,
        )
        return gradient, None, None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y, width = torch.empty_like(gate), gate.shape[-1]
        _GatedCall(gate.numel() // width, width, width).run("gated", gate, gate=gate, up=up, y=y)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad, width = grad.contiguous(), gate.shape[-1]
        gradients = torch.empty_like(gate), torch.empty_like(up)
        _GatedCall(gate.numel() // width, width, width).run(
            "gated_backward",
            gate,
            gate=gate,
            up=up,
            y_gradient=grad,
            gate_gradient=gradients[0],
            up_gradient=gradients[1],
        )
        return gradients


class _GatedHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        width = gate_up.shape[-1] // 2
        y, up = gate_up.new_empty(*gate_up.shape[:-1], width), gate_up[..., width:]
        _GatedCall(y.numel() // width, width, 2 * width).run("gated", gate_up, gate=gate_up, up=up, y=y)
        ctx.save_for_backward(gate_up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        grad, gradient = grad.contiguous(), torch.empty_like(gate_up)
        width = grad.shape[-1]
        _GatedCall(grad.numel() // width, width, 2 * width).run(
            "gated_backward", grad, gate=gate_up, up=gate_up[..., width:], y_gradient=grad,
            gate_gradient=gradient, up_gradient=gradient[..., width:],
        )  # fmt: skip
        return gradient


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, token_T: Tensor, place_NK: Tensor) -> Tensor:
        ctx.save_for_backward(place_NK.contiguous())
        return x_NH.index_select(0, token_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TH: Tensor) -> tuple[Tensor, None, None]:
        (place_NK,) = ctx.saved_tensors
        return _summed(grad_TH.contiguous(), place_NK, None), None, None


class _Combined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, place_NK: Tensor, weight_NK: Tensor) -> Tensor:
        x_TH, place_NK, weight_NK = x_TH.contiguous(), place_NK.contiguous(), weight_NK.contiguous()
        ctx.save_for_backward(x_TH, place_NK, weight_NK)
        return _summed(x_TH, place_NK, weight_NK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NH: Tensor) -> tuple[Tensor, None, Tensor]:
        x_TH, place_NK, weight_NK = ctx.saved_tensors
        grad_NH, gradient, slope_NK = grad_NH.contiguous(), torch.zeros_like(x_TH), torch.empty_like(weight_NK)
        _CombinedCall(*place_NK.shape, x_TH.shape[1]).run(
            "combined_backward", x_TH, place=place_NK, x=x_TH, weight=weight_NK, y_gradient=grad_NH,
            x_gradient=gradient, weight_gradient=slope_NK,
        )  # fmt: skip
        return gradient, None, slope_NK


def _summed(x_TH: Tensor, place_NK: Tensor, weight_NK: Tensor | None) -> Tensor:
    y_NH = x_TH.new_empty(len(place_NK), x_TH.shape[1])
    weights = {} if weight_NK is None else {"weight": weight_NK}
    _CombinedCall(*place_NK.shape, x_TH.shape[1]).run("combined", x_TH, place=place_NK, x=x_TH, y=y_NH, **weights)
    return y_NH


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_TQD: Tensor, keys_TGD: Tensor, values_TGD: Tensor, start_B: Tensor, window: int, scale: float
    ) -> Tensor:
        states = query_TQD.contiguous(), keys_TGD.contiguous(), values_TGD.contiguous()
        y_TQD, start_B = torch.empty_like(states[0]), start_B.contiguous()
        normaliser_TQ = y_TQD.new_empty(y_TQD.shape[:2], dtype=torch.float32)
        _attention_call(states, start_B, window).run(
            "attention", y_TQD, **_named(states), start=start_B, y=y_TQD, normaliser=normaliser_TQ, scale=scale
        )
        ctx.save_for_backward(*states, start_B, normaliser_TQ)
        ctx.rest = window, scale
        return y_TQD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TQD: Tensor) -> tuple[Tensor | None, ...]:
        *states, start_B, normaliser_TQ = ctx.saved_tensors
        window, scale = ctx.rest
        grad_TQD, gradients = grad_TQD.contiguous(), [torch.empty_like(s) for s in states]
        _attention_call(states, start_B, window).run(
            "attention_backward", grad_TQD, **_named(states), **_named(gradients, "_gradient"), start=start_B,
            y_gradient=grad_TQD, normaliser=normaliser_TQ, scale=scale,
        )  # fmt: skip
        return *gradients, None, None, None


def _attention_call(states: Any, start_B: Tensor, window: int) -> _AttentionCall:
    (_, heads, dim), shared = states[0].shape, states[1].shape[1]
    return _AttentionCall(len(start_B) - 1, heads, shared, dim, window)


def _named(states: Any, ending: str = "") -> dict[str, Tensor]:
    return dict(zip((f"query{ending}", f"keys{ending}", f"values{ending}"), states, strict=True))


def _replaced(module: Any) -> Callable[[], None] | None:
    """What undoes the replacement of this module's own computation; None where nothing is replaced."""
    weight = getattr(module, "weight", None)
    is_norm = type(module).__name__.endswith("RMSNorm")
    if is_norm and isinstance(weight, nn.Parameter) and weight.dim() == 1 and usable(weight):
        eps = float(getattr(module, "variance_epsilon", getattr(module, "eps", None)) or 0)
        for offset in (0.0, 1.0) if eps else ():  # Gemma's weights are differences from one
            own = partial(_own_norm, module, eps, offset)
            if is_plain(module) and _agrees(module, own, _trial(weight, len(weight))):
                return replace(module, own)
    elif {"gate_proj", "up_proj", "down_proj", "act_fn"} <= {*dict(module.named_children())} and _is_silu(module):
        own = partial(_own_mlp, module)
        known = is_plain(module) and isinstance(module.gate_proj, nn.Linear) and usable(module.gate_proj.weight)
        if known and _agrees(module, own, _inputs(module)):
            return replace(module, own)
    elif hasattr(module, "gate_up_proj") and _is_silu(module) and (stock := gate_of(module)):
        own = partial(_own_gate, stock)
        known = not is_replaced(module) and usable(module.gate_up_proj)
        if known and _agrees(stock, own, _trial(module.gate_up_proj, 64)):
            return replace_gate(module, own)
    return None


def _is_silu(module: Any) -> bool:
    return type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")


def _trial(like: Tensor, width: int) -> Tensor:
    """Rows of all sizes, none of them centred, in the type of `like`: zeros, where only an epsilon counts, where a
    nonlinearity bends, and far out, where a clamp would show."""
    size_R1 = torch.tensor([0, 1e-3, 0.1, 1, 10, 1000])[:, None]
    drawn_RD = torch.randn(len(size_R1), width, generator=torch.Generator().manual_seed(0)) + 0.5
    return (drawn_RD * size_R1).to(like)


def _inputs(module: Any) -> Tensor:
    """A trial whose gates come in all sizes, whatever the weights are."""
    weight_ID: Tensor = module.gate_proj.weight
    trial_RD = _trial(weight_ID, weight_ID.shape[1])
    usual = (trial_RD[3:4] @ weight_ID.T).float().square().mean().sqrt()
    return trial_RD / usual.clamp(min=1e-6).to(trial_RD.dtype)


@torch.no_grad()
def _agrees(stock: Callable[[Tensor], Tensor], own: Callable[[Tensor], Tensor], trial_RD: Tensor) -> bool:
    """Whether both give the same, row by row, and something; a part that cannot be asked this way does not."""
    if not usable(trial_RD):
        return False
    try:
        theirs_RX, ours_RX = stock(trial_RD).float(), own(trial_RD).float()
    except Exception:  # noqa: BLE001 - whatever a stranger's forward raises
        return False
    if ours_RX.shape != theirs_RX.shape:
        return False
    size_R, close = theirs_RX.norm(dim=-1), 1e-4 if trial_RD.dtype == torch.float32 else 2e-2
    same = bool(((ours_RX - theirs_RX).norm(dim=-1) <= close * size_R).all())
    return same and bool((size_R[1:] > 0).all())


def _own_norm(module: Any, eps: float, offset: float, x: Tensor) -> Tensor:
    weight: Tensor = module.weight
    if not usable(x, weight) or (weight.requires_grad and torch.is_grad_enabled()) or not x.numel():
        stock: Tensor = type(module).forward(module, x)
        return stock
    return norm(x, weight, eps, offset)


def _own_mlp(module: Any, x: Tensor) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    middle = gated(gate, up) if usable(gate, up) and gate.numel() else module.act_fn(gate) * up
    out: Tensor = module.down_proj(middle)
    return out


def _own_gate(stock: Callable[[Tensor], Tensor], gate_up: Tensor) -> Tensor:
    return gated_halves(gate_up) if usable(gate_up) and gate_up.numel() else stock(gate_up)
