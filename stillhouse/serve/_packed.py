"""Weights in the order in which a CPU multiplies them: oneDNN's packed form, made once, used by every forward.

In: a network on a CPU in float32. Out: its linear layers compute the same products from packed copies, two to three
times as fast for a few rows as from the weights as they lie (benchmarks/serve_mixed.py); rounding may differ in the
last bits. The weights themselves stay where they are, for whoever reads them; the copies take as many bytes again, up
to a limit. It does not know adapters: they hang on the same layers by hooks, before or after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

SMALL = 2**16  # weights of a layer up to here lie in the cache anyway


def pack(network: PreTrainedModel, limit: int) -> Callable[[], None]:
    """Pack linear layers, in module order, while the copies take at most `limit` bytes; returns what undoes it.
    Where nothing can be packed (an accelerator, another type, a torch without oneDNN), nothing happens."""
    packed = []
    for layer in _layers(network):
        limit -= layer.weight.nbytes
        if limit < 0:
            break
        with torch.inference_mode():
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight, None)
        layer.forward = partial(_forward, layer, weight)  # type: ignore[method-assign]
        packed.append(layer)

    def undo() -> None:
        for layer in packed:
            del layer.forward

    return undo


def _layers(network: PreTrainedModel) -> Iterator[nn.Linear]:
    """Plain linear layers that gain by it."""
    usable = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    for module in network.modules() if usable else ():
        if type(module) is nn.Linear and "forward" not in vars(module):
            weight = module.weight
            if weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > SMALL:
                yield module


def _forward(layer: nn.Linear, packed: Tensor, x: Tensor) -> Tensor:
    """`layer(x)`. Where gradients are wanted, or x has another type, from the weights themselves."""
    if torch.is_grad_enabled() or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, layer.weight, layer.bias)
    return torch.ops.mkldnn._linear_pointwise(x, packed, layer.bias, "none", [], "")  # type: ignore[no-any-return]
