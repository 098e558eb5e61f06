"""`out + scale * B A x` for one token of each of many rows, by the kernel in kernels/lora_rows.cpp.

In: addresses of float32 tensors on the CPU, and their sizes. Out: the rows of `out`, in place. The kernel is built when
the package is installed, where there is a C++ compiler; without it callers have torch's operators. It shares torch's
threads. It does not know adapters.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

Kernel = Callable[..., None]
_COUNT, _ADDRESS = ctypes.c_int64, ctypes.c_void_p


@cache
def rows_kernel() -> Kernel | None:
    """The kernel, or None where it was not built or does not load: `(out, out_stride, x, x_stride, a, b, z, rows,
    inner, ranks, first, rank, outer, fresh, scale, threads)`, as its source explains them."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_kernels{suffix}")
        if not file.exists():
            continue
        try:
            found = ctypes.CDLL(str(file)).stillhouse_lora_rows
        except (OSError, AttributeError):
            return None
        found.restype = None
        found.argtypes = [
            *(_ADDRESS, _COUNT, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _ADDRESS),
            *(_COUNT, _COUNT, _COUNT, _COUNT, _COUNT, _COUNT),
            *(ctypes.c_int32, ctypes.c_float, ctypes.c_int32),
        ]
        return found
    return None
