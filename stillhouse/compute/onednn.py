"""oneDNN's product with a weight in oneDNN's own order of bytes: two private operators of torch.

In: a weight `[out, in]` and rows, float32, on a CPU. Out: the weight reordered, and products with it. `available` tries
both operators on a small product. Where one is missing or gives something else, callers keep to the public
`torch.nn.functional.linear` with the weight as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def available() -> bool:
    """Whether this torch has both operators, and they compute what `linear` computes."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight_OI, x_TI = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(2, 4)
    try:
        product_TO = multiply(x_TI, reorder(weight_OI))
    except (AttributeError, RuntimeError, TypeError):  # not there, not for this processor, or with other arguments
        return False
    return torch.allclose(product_TO, nn.functional.linear(x_TI, weight_OI))


def reorder(weight_OI: Tensor) -> Tensor:
    """A copy of the weight for `multiply`; nothing else can read it."""
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI, None)
    return copy


def multiply(x: Tensor, reordered: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + bias` over the last dimension of `x`, without gradients."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, reordered, bias, "none", [], "")
    return product
