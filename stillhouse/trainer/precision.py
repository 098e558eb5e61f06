"""In which number format a training computes: the network's products in bfloat16 where the processor has them.

In: a model. Out: a context in which its frozen weights and the products on them are of that type; what is trained stays
in float32 (Micikevicius et al. 2018, arXiv 1710.03740). The weights are exactly what they were afterwards.

It does not know what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..compute.attention import SHORT
from ..compute.fused import between
from ..compute.threads import fastest_threads
from ..models import Model

BATCH = (32, 16)  # rows and tokens of a usual step, to choose threads by
Precision = Literal["auto", "float32", "bfloat16"]


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 (AVX512-BF16, AMX, Arm's BF16); others take longer than in float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))


@contextmanager
def computing(model: Model, precision: Precision) -> Iterator[None]:
    """Inside: products of `model` in `precision`. "auto" is the weights' own type on an accelerator, and on a CPU
    bfloat16 where it is fast. On a CPU as many threads as a usual step is fastest with."""
    device = model.device.type
    if precision == "auto" and device == "cpu":
        precision = "bfloat16" if fast_bfloat16() else "float32"
    chosen = model.network.dtype if precision == "auto" else getattr(torch, precision)
    originals = [(p, p.data) for p in model.network.parameters() if p.is_floating_point() and p.dtype != chosen]
    try:
        for parameter, data in originals:
            parameter.data = data.to(chosen)
        half = torch.autocast(device, dtype=torch.bfloat16, enabled=chosen == torch.bfloat16)
        with between(model.network), half, fastest_threads(model, *BATCH):
            yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def attention(model: Model, width: int) -> AbstractContextManager[None]:
    """The faster attention for rows of `width` tokens under `computing`: in bfloat16 on a CPU, torch's fused one takes
    a product per head and row, which short rows pay dearly for."""
    plain = model.device.type == "cpu" and torch.is_autocast_enabled("cpu") and width <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()
