"""One attention over rows whose tokens lie side by side in a forward: for training, decoding and serving."""

from __future__ import annotations

from .layout import Distinct, forward
from .masks import Visible
from .rows import SHORT, CachedRows, Text, UncachedRows
from .trial import fits

__all__ = ["SHORT", "CachedRows", "Distinct", "Text", "UncachedRows", "Visible", "fits", "forward"]
