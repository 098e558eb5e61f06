"""Networks of transformers as a runner."""

from __future__ import annotations

from .runner import TorchRunner

__all__ = ["TorchRunner"]
