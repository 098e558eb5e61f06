"""What computes a model: a protocol, and one folder for each engine that fulfils it."""

from __future__ import annotations

from ..errors import ModelError
from ..models import Model, TextModel
from .protocol import BASE, Cache, Config, Reading, Runner, SavedRow, Watch
from .torch import TorchRunner

DEFAULTS = Config()

__all__ = ["BASE", "Cache", "Config", "Reading", "Runner", "SavedRow", "TorchRunner", "Watch", "open_runner"]


def open_runner(model: TextModel, config: Config = DEFAULTS) -> Runner:
    """The runner of a loaded model. `ModelError` where none computes this kind of model."""
    if isinstance(model, Model):
        return TorchRunner.open(model, config)
    raise ModelError(f"{model.ref}: nothing here computes a {type(model).__name__}")
