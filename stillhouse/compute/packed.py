"""Weights in the order in which a CPU multiplies them: oneDNN's packed form, made once, used by every forward.

In: a network on a CPU in float32, whose weights stay as they are. Out: its linear layers and stacked experts compute
the same products from packed copies, where a trial shows that this processor is faster so: twice as fast where its own
library is not at its best (MKL on an AMD with AVX-512; benchmarks/serve_mixed.py), slower on one with AVX2 alone.
Rounding may differ in the last bits. Gradients of what goes in come from copies packed the other way round. The weights
stay where they are, for whoever reads them; the copies take as many bytes again, or twice as many, up to a limit.

It does not know adapters: they follow the same layers' forwards, and take an expert's copies from `packed_experts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .onednn import available, multiply, reorder
from .patch import is_plain, replace

SMALL = 2**16  # weights of a layer up to here lie in the cache anyway, which is what counts for the few rows of answers
BYTES = 8 * 2**30  # of copies, where nobody says how many
TRIAL = 2**24, 64  # multiplications of a product that is tried, and its rows at most
ROUNDS, WORTH = 7, 1.25  # of trying both in turns; how much faster it has to be
_EXPERTS = "_packed_experts"
_FASTER: dict[tuple[int, int, int], bool] = {}  # by the weight's shape and the threads


class Packed(NamedTuple):
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


def pack(network: nn.Module, limit: int, gradients: bool = False, experts: bool = False) -> Callable[[], None]:
    """Pack linear layers, in module order, while the copies take at most `limit` bytes; returns what undoes it. With
    `experts` those too, and layers that gain by it only for many rows at a time; with `gradients` all that, and of
    what goes into a layer, for adapters that are trained on a frozen network.

    Where nothing can be packed (an accelerator, another type, a torch without oneDNN) or gains by it, nothing happens.
    """
    undo: list[Callable[[], None]] = []
    found = list(_weights(network, gradients or experts))
    for layer, name in found if found and _faster(_commonest([getattr(*where) for where in found])) else ():
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
def packing(networks: Iterable[nn.Module], limit: int = BYTES) -> Iterator[None]:
    """Inside, these answer from packed weights, as far as `limit` bytes each go."""
    with ExitStack() as packed:
        for network in networks:
            packed.callback(pack(network, limit))
        yield


def packed_experts(module: nn.Module, name: str) -> list[Packed] | None:
    """The copies of a stack of experts, one each; None where there are none, or products are of another type."""
    found: list[Packed] | None = module.__dict__.get(_EXPERTS, {}).get(name)
    return None if torch.is_autocast_enabled("cpu") else found


def _weights(network: nn.Module, many: bool) -> Iterator[tuple[nn.Module, str]]:
    """Weights that gain by it: of plain linear layers, and stacks of experts as transformers keeps them."""
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


@torch.inference_mode()
def _faster(weight: Tensor) -> bool:
    """Whether products with such a weight are faster from a packed copy."""
    weight_OI = weight.detach().flatten(0, -3)[0] if weight.dim() == 3 else weight.detach()
    key = (*weight_OI.shape, torch.get_num_threads())
    if key not in _FASTER:
        most, rows = TRIAL
        x_TI = torch.ones(max(1, min(rows, most // weight_OI.numel())), weight_OI.shape[1])
        packed = _packed(weight_OI, False)
        ways = (partial(multiply, x_TI, packed.forward), partial(nn.functional.linear, x_TI, weight_OI))
        seconds = [[_seconds(way) for way in ways] for _ in range(ROUNDS + 1)][1:]
        copied, lying = (median(found) for found in zip(*seconds, strict=True))
        _FASTER[key] = copied * WORTH < lying
    return _FASTER[key]


def _seconds(product: Callable[[], Tensor]) -> float:
    start = perf_counter()
    product()
    return perf_counter() - start


def _gains(weight: Tensor, many: bool) -> bool:
    """Whether a weight is worth a copy, for `many` rows at a time or a few."""
    large = weight.numel() > (SMALL // 8 if many else SMALL)
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and large


@torch.inference_mode()
def _packed(weight_OI: Tensor, gradients: bool) -> Packed:
    weight_OI = weight_OI.detach()
    return Packed(reorder(weight_OI), reorder(weight_OI.T.contiguous()) if gradients else None)


def _forward(layer: nn.Linear, packed: Packed, x: Tensor) -> Tensor:
    """`layer(x)`; from the weights themselves where they learn, and for what they were not packed for."""
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
