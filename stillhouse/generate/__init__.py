"""Generates answers to prompts, and scores given answers."""

from __future__ import annotations

from ..models.forward import head, pad_right
from .decode import answer, generate
from .decoder import Decoder, computes_once
from .forward import Bank, Ids, adapting, batches, score
from .prefix import Prefix, common_prefix, prefill
from .runner_decoder import RunnerDecoder
from .sampling import GREEDY, Choice, Draw, Sampling, choose, next_tokens

__all__ = [
    "GREEDY",
    "Bank",
    "Choice",
    "Decoder",
    "Draw",
    "Ids",
    "Prefix",
    "RunnerDecoder",
    "Sampling",
    "adapting",
    "answer",
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
