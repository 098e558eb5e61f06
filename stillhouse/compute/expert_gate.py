"""The gate between the two products of a mixture's experts: a private method of transformers' expert modules.

In: a module. Out: its gate, or None for a module without one (of another class, or of another transformers). The
gate can be replaced. Callers leave a module without a gate to its own forward, which is public.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

Gate = Callable[[Tensor], Tensor]


def gate_of(module: Any) -> Gate | None:
    """What the module makes of its first product, `[T, 2 I]` to `[T, I]`."""
    return getattr(module, "_apply_gate", None)


def replace_gate(module: Any, gate: Gate) -> Callable[[], None]:
    """`gate` in the place of the module's own; returns what undoes it."""
    module._apply_gate = gate
    return partial(vars(module).pop, "_apply_gate", None)


def is_replaced(module: Any) -> bool:
    """Whether the module's gate is not the one of its class."""
    return "_apply_gate" in vars(module)
