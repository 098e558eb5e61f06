"""`out + scale * B A x` for many rows, each with its own A and B, by the kernel in kernels/lora_rows.cpp.

In: tensors on the CPU. Out: an adapter in the order in which the kernel reads it; and the rows of `out`, in place.

It does not know whose rows they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..compute.kernels import library

Kernel = Callable[..., None]
LANES, COLUMNS = 16, 64  # what the kernel's blocks are multiples of


class _Run(ctypes.Structure):
    _fields_ = (
        ("adapter", ctypes.c_void_p),
        ("first", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("half", ctypes.c_int32),
    )


class AdapterRuns(ctypes.Structure):
    """The tokens of a batch, in order, by the adapter they use: `(adapter, tokens)` each; None is the base alone. The
    adapters are kept alive."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("runs", ctypes.POINTER(_Run)),
        ("threads", ctypes.c_int32),
    )

    def __init__(self, runs: Sequence[tuple[Tensor | None, int]], threads: int) -> None:
        self.adapters = [adapter for adapter, _ in runs]
        made, first = [], 0
        for adapter, tokens in runs:
            if adapter is not None:
                made.append(_Run(adapter.data_ptr(), first, tokens, adapter.dtype == torch.bfloat16))
            first += tokens
        super().__init__(len(made), (_Run * len(made))(*made), threads)


class Target(ctypes.Structure):
    """Sizes of one target, and where its A and B are in an adapter, in values; as the kernel's source explains them."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("inner", "ranks", "a", "first", "rank", "outer", "b")),
        ("z", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    )


def packed_a(a_GRI: Sequence[Tensor], narrow: bool) -> Tensor:
    """The A's of targets with one input, `[rank, inner]` each, beside each other in the kernel's order, flat. `narrow`:
    they are bfloat16."""
    a_IG = torch.cat(list(a_GRI)).T
    return _pairs(pad(a_IG, (0, -a_IG.shape[1] % LANES))[None], narrow)


def packed_b(b_OR: Tensor, narrow: bool) -> Tensor:
    """One B, `[out, rank]`, in the kernel's order, flat."""
    b_RO = pad(b_OR.T, (0, -len(b_OR) % COLUMNS))
    return _pairs(b_RO.unflatten(1, (-1, COLUMNS)).transpose(0, 1), narrow)


def _pairs(rows_NRC: Tensor, narrow: bool) -> Tensor:
    """In bfloat16 two rows lie in one, value by value in turns."""
    return (rows_NRC.unflatten(1, (-1, 2)).mT if narrow else rows_NRC).flatten()


@cache
def rows_kernel() -> Kernel | None:
    """The kernel, or None where there is none.

    It is called with `(runs, target, x, out, fresh)`: the addresses of `AdapterRuns`, of a `Target`, and of x
    `[tokens, inner]` and out `[tokens, outer]`, float32 without gaps; and whether x is new.
    """
    built = library()
    if built is None:
        return None
    function = built.stillhouse_lora_rows
    function.restype = None
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int32]
    return function
