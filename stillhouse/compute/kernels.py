"""The package's compiled kernels (kernels/*.cpp), where they were built, and how they are called.

In: tensors on the CPU, float32 or bfloat16. Out: the library, by ctypes, or None: it is built when the package is
installed, where there is a C++ compiler, and without it callers have torch's operators. A kernel is told everything in
one structure. Kernels share torch's threads.

It does not know what is computed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VERSION = 2  # of all kernels' calls and structures; the library says the same number, or was built from other sources
TYPES = (torch.float32, torch.bfloat16)
WORTH_A_THREAD = 2**15  # values: telling the others costs as much as fewer


@cache
def library() -> ctypes.CDLL | None:
    """The library, or None where it was not built, does not load, or was built from other sources than these."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).parents[1] / f"_kernels{suffix}"
        if file.exists():
            try:
                loaded = ctypes.CDLL(str(file))
                return loaded if loaded.stillhouse_version() == VERSION else None
            except (OSError, AttributeError):
                return None
    return None


def built() -> bool:
    """Whether the kernels are there."""
    return library() is not None


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels are there and know these tensors: on the CPU, of one type."""
    first = tensors[0]
    known = first.device.type == "cpu" and first.dtype in TYPES
    return known and all(t.dtype == first.dtype for t in tensors) and built()


def threads_for(like: Tensor) -> int:
    """As many threads as it is worth for a tensor of this size."""
    return torch.get_num_threads() if like.numel() > WORTH_A_THREAD else 1


def fields(sizes: str, addresses: str, numbers: str = "") -> list[tuple[str, type]]:
    """The fields of a `Call` by their names, as the kernel's source explains them."""
    named = [(sizes, ctypes.c_int64), (addresses, ctypes.c_void_p), (numbers, ctypes.c_float)]
    named.append(("half threads", ctypes.c_int32))
    return [(name, kind) for names, kind in named for name in names.split()]


class Call(ctypes.Structure):
    """What a kernel is told; `_fields_` are from `fields`."""

    half: int
    threads: int

    def run(self, kernel: str, like: Tensor, threads: int = 0, /, **told: Tensor | float) -> None:
        """For values of the type of `like`, and as many (0: `threads_for` it). Tensors go as their addresses: whoever
        calls keeps them."""
        assert usable(like), f"no kernel for {like.dtype} on {like.device}"
        self.half, self.threads = like.dtype == torch.bfloat16, threads or threads_for(like)
        for name, value in told.items():
            setattr(self, name, value.data_ptr() if isinstance(value, Tensor) else value)
        _function(kernel)(ctypes.byref(self))


@cache
def _function(name: str) -> Callable[[Any], None]:
    loaded = library()
    assert loaded is not None, "a kernel was called without the library"
    function = loaded[f"stillhouse_{name}"]
    function.restype = None
    return function
