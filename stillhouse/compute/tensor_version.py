"""How often a tensor was written in place: a private attribute of torch's tensors.

In: a tensor. Out: a number that grows with every write, or None where torch does not count (inference tensors, or
another torch). Without it a caller cannot tell whether a copy is still true, and copies again.
"""

from __future__ import annotations

from torch import Tensor


def version_of(tensor: Tensor) -> int | None:
    """The number of writes, or None where it is not known."""
    try:
        return tensor._version
    except (AttributeError, RuntimeError):
        return None
