"""The runner of transformers' networks."""

from __future__ import annotations

from .runner import TorchRunner

__all__ = ["TorchRunner"]
