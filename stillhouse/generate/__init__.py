"""A model answers: prompts read once, tokens decoded, given answers scored."""

from __future__ import annotations

from ..models.forward import head, pad_right
from .decode import (
    Bank,
    Ids,
    Prefix,
    adapting,
    batches,
    common_prefix,
    computes_once,
    generate,
    prefill,
    score,
)
from .sampling import GREEDY, Choice, Draw, Sampling, choose, next_tokens

__all__ = [
    "GREEDY",
    "Bank",
    "Choice",
    "Draw",
    "Ids",
    "Prefix",
    "Sampling",
    "adapting",
    "batches",
    "choose",
    "common_prefix",
    "computes_once",
    "generate",
    "head",
    "next_tokens",
    "pad_right",
    "prefill",
    "score",
]
