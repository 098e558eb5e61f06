"""A model answers: prompts read once, tokens decoded, given answers scored."""

from __future__ import annotations

from ..models.forward import head, pad_right
from .decode import (
    Bank,
    Ids,
    Prefix,
    Sampling,
    adapting,
    batches,
    common_prefix,
    computes_once,
    generate,
    prefill,
    score,
)

__all__ = [
    "Bank",
    "Ids",
    "Prefix",
    "Sampling",
    "adapting",
    "batches",
    "common_prefix",
    "computes_once",
    "generate",
    "head",
    "pad_right",
    "prefill",
    "score",
]
