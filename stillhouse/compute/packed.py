"""Packed copies of weights, in the order in which oneDNN multiplies them on a CPU.

In: a network on a CPU in float32. Out: its linear layers and stacked experts compute the same products from packed
copies, where a trial shows that this processor is faster with them. They are twice as fast where MKL is not at its best
(an AMD with AVX-512; benchmarks/serve_mixed.py), and slower on a processor with AVX2 alone. Rounding may differ in the
last bits. Gradients of the inputs come from copies of the transposed weights. The weights themselves stay as they are.
The copies take as many bytes again, or twice as many, up to a limit.

It does not know adapters. They follow the same layers' forwards, and take an expert's copies from `packed_experts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .onednn import available, multiply, reorder
from .patch import is_plain, replace

SMALL = 2**16  # a layer of so many weights stays in the cache, which decides the time of few rows
BYTES = 8 * 2**30  # of copies, where a caller sets no limit
TRIAL = 2**24, 64  # multiplications of the product in a trial, and its rows, at most
ROUNDS, WORTH = 7, 1.25  # rounds in which both are timed in turns; how much faster copies have to be
_EXPERTS = "_packed_experts"
T = TypeVar("T")


class Once(Protocol):
    """Keeps results by name: `once` of a `models.Model`."""

    def __call__(self, name: str, make: Callable[[], T]) -> T: ...


def anew(name: str, make: Callable[[], T]) -> T:
    """An `Once` that keeps nothing."""
    return make()


class PackedWeight(NamedTuple):
    """A weight's copies: for `x W^T`, and for `g W` where gradients are wanted."""

    forward: Tensor
    backward: Tensor | None

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x W^T + bias` for rows of float32."""
        if torch.is_grad_enabled() and x.requires_grad:
            assert self.backward is not None, "packed for answers alone"
            rows_TO: Tensor = _Product.apply(x.flatten(0, -2), self.forward, self.backward, bias)  # type: ignore[no-untyped-call]
            return rows_TO.view(*x.shape[:-1], -1)
        return multiply(x, self.forward, bias)

    def back(self, grad: Tensor) -> Tensor:
        """`g W`."""
        assert self.backward is not None, "packed for answers alone"
        return multiply(grad.contiguous(), self.backward)


def pack(
    network: nn.Module, limit: int, gradients: bool = False, experts: bool = False, once: Once = anew
) -> Callable[[], None]:
    """Pack linear layers, in module order, while the copies take at most `limit` bytes; returns what undoes it.

    `experts`: pack stacked experts too, and layers that are faster only for many rows at a time. `gradients`: the same,
    and copies for the gradients of inputs, for adapters that are trained on a frozen network. `once` keeps the result
    of the trial. Nothing is packed on an accelerator, in another number format, without oneDNN, or where copies are not
    faster.
    """
    undo: list[Callable[[], None]] = []
    places = list(_weights(network, gradients or experts))
    if not places or not _faster(_commonest([getattr(*place) for place in places]), once):
        places = []
    for layer, name in places:
        weight = getattr(layer, name)
        limit -= weight.nbytes * (2 if gradients else 1)
        if limit < 0:
            break
        if isinstance(layer, nn.Linear):
            undo.append(replace(layer, partial(_forward, layer, _packed(weight, gradients))))
        else:
            copies = layer.__dict__.setdefault(_EXPERTS, {})
            copies[name] = [_packed(weight_OI, gradients) for weight_OI in weight]
            undo.append(partial(copies.pop, name))

    def unpack() -> None:
        for one in undo:
            one()

    return unpack


@contextmanager
def packing(network: nn.Module, limit: int = BYTES, once: Once = anew) -> Iterator[None]:
    """Inside, the network answers from packed weights, as far as `limit` bytes go."""
    unpack = pack(network, limit, once=once)
    try:
        yield
    finally:
        unpack()


def packed_experts(module: nn.Module, name: str) -> list[PackedWeight] | None:
    """The copies of a stack of experts, one per expert; None where there are none, or under autocast."""
    copies: list[PackedWeight] | None = module.__dict__.get(_EXPERTS, {}).get(name)
    return None if torch.is_autocast_enabled("cpu") else copies


def _weights(network: nn.Module, many: bool) -> Iterator[tuple[nn.Module, str]]:
    """The weights that are worth a copy: of plain linear layers, and transformers' stacks of experts."""
    for module in network.modules() if available() else ():
        if type(module) is nn.Linear and is_plain(module) and _gains(module.weight, many):
            yield module, "weight"
        elif many and not getattr(module, "is_transposed", False):
            for name in ("gate_up_proj", "down_proj"):
                weight = getattr(module, name, None)
                if isinstance(weight, nn.Parameter) and weight.dim() == 3 and _gains(weight, True):
                    yield module, name


def _commonest(weights: Sequence[Tensor]) -> Tensor:
    """One of the shape that most of the weights are of."""
    values = Counter[tuple[int, int]]()
    for weight in weights:
        values[weight.shape[-2], weight.shape[-1]] += weight.numel()
    (most, _), *_ = values.most_common(1)
    return next(weight for weight in weights if weight.shape[-2:] == most)


def _faster(weight: Tensor, once: Once) -> bool:
    """Whether products with such a weight are faster from a packed copy, with as many threads as there are."""
    weight_OI = weight.detach().flatten(0, -3)[0] if weight.dim() == 3 else weight.detach()
    rows, columns = weight_OI.shape
    name = f"compute.packed: {rows} x {columns} with {torch.get_num_threads()} threads"
    return once(name, lambda: _try(weight_OI))


@torch.inference_mode()
def _try(weight_OI: Tensor) -> bool:
    most, rows = TRIAL
    x_TI = torch.ones(max(1, min(rows, most // weight_OI.numel())), weight_OI.shape[1])
    packed = _packed(weight_OI, False)
    ways = (partial(multiply, x_TI, packed.forward), partial(nn.functional.linear, x_TI, weight_OI))
    seconds = [[_seconds(way) for way in ways] for _ in range(ROUNDS + 1)][1:]
    from_copy, from_weight = (float(median(column)) for column in zip(*seconds, strict=True))
    return from_copy * WORTH < from_weight


def _seconds(product: Callable[[], Tensor]) -> float:
    start = perf_counter()
    product()
    return perf_counter() - start


def _gains(weight: Tensor, many: bool) -> bool:
    """Whether a weight is worth a copy, for `many` rows at a time or a few."""
    large = weight.numel() > (SMALL // 8 if many else SMALL)
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and large


@torch.inference_mode()
def _packed(weight_OI: Tensor, gradients: bool) -> PackedWeight:
    weight_OI = weight_OI.detach()
    return PackedWeight(reorder(weight_OI), reorder(weight_OI.T.contiguous()) if gradients else None)


def _forward(layer: nn.Linear, packed: PackedWeight, x: Tensor) -> Tensor:
    """`layer(x)`, from the weights themselves where they learn or the copies cannot give it."""
    wanted = torch.is_grad_enabled() and (layer.weight.requires_grad or (x.requires_grad and packed.backward is None))
    if wanted or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not x.numel():
        return nn.functional.linear(x, layer.weight, layer.bias)
    return packed(x, layer.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, back: Tensor, bias: Tensor | None) -> Tensor:
        ctx.back = back
        return multiply(x, packed, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return multiply(grad.contiguous(), ctx.back), None, None, None
