"""Student kind `adapter`: a LoRA adapter on the teacher's own base that answers without the memory."""

from __future__ import annotations

from .settings import Config
from .student import RATE, STEPS, Trained, about, checkpoints, from_zero, resolved, total_steps, train

__all__ = [
    "RATE",
    "STEPS",
    "Config",
    "Trained",
    "about",
    "checkpoints",
    "from_zero",
    "resolved",
    "total_steps",
    "train",
]
