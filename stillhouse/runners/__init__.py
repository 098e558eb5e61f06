"""Runners compute models: `protocol.py` says what a runner does, and each engine has a folder of its own."""

from __future__ import annotations

from ..errors import ModelError
from ..models import Model, TextModel
from .protocol import BASE, Cache, Config, Reading, Runner, SavedRow, Watch
from .torch import TorchRunner

DEFAULTS = Config()

__all__ = ["BASE", "Cache", "Config", "Reading", "Runner", "SavedRow", "TorchRunner", "Watch", "open_runner"]


def open_runner(model: TextModel, config: Config = DEFAULTS) -> Runner:
    """The runner of a loaded model. Raises `ModelError` when no runner computes this kind of model."""
    if isinstance(model, Model):
        return TorchRunner.open(model, config)
    raise ModelError(f"{model.ref}: nothing here computes a {type(model).__name__}")
