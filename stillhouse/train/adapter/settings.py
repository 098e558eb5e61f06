"""How a user's adapter is trained.

In: settings of the table `train`. Out: a frozen `Config`; `InputError` for what is not allowed.

It does not know how they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...config import check_numbers
from ...errors import InputError
from ...losses import Tail
from ...trainer.precision import Precision
from .start import AUTO

POSITIVE = ("rank", "alpha", "clip", "checkpoint_every", "batch_tokens", "anchor_every", "curvature_tokens")


@dataclass(frozen=True)
class Config:
    """`facts`, `unknowns` and `anchors` (unrelated prompts) are examples per user and step; of the answers to
    `unknown_wholes` of the unknowns all is trained, of the others' what tells them from a fact's. Weights are of each
    kind's mean loss (nats). The drift from the base on `curvature_tokens` of running text, as the base's curvature
    foretells it, has a weight that grows from 0 to `curvature_weight`; with `anchor_rows`, the drift on so many fresh
    windows of `anchor_tokens`, every `anchor_every` steps, has one that grows to `anchor_weight`. `noise` moves
    embeddings by up to so many of their standard deviations. `together` users train in one batch of at most
    `batch_tokens` at once (0: as many as suit the device). `start`: the adapter to begin with, "auto" for the base's
    own where it has one, "none", or a folder (`stillhouse prime`); `steps` and `learning_rate` 0 are what that start
    was made for, or 90 and 12e-3 without one."""

    rank: int = 16
    alpha: float = 32.0
    targets: Literal["all", "attention", "mlp"] = "all"
    experts: bool = True
    start: str = AUTO
    learning_rate: float = 0.0
    steps: int = 0
    warmup: int = 8
    facts: int = 18
    unknowns: int = 14
    unknown_wholes: int = 2
    anchors: int = 2
    curvature_weight: float = 200.0
    curvature_tokens: int = 4096
    anchor_rows: int = 0
    anchor_tokens: int = 96
    anchor_every: int = 2
    fact_weight: float = 1.0
    unknown_weight: float = 0.5
    prompt_weight: float = 0.5
    anchor_weight: float = 32.0
    noise: float = 0.9
    clip: float = 1.0
    mastered: float = 0.2
    anchored: float = 0.015
    tail: Tail = "sampled"
    precision: Precision = "auto"
    checkpoint_every: int = 20
    batch_tokens: int = 4096
    together: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, "train", POSITIVE)
        if not self.facts + self.unknowns + self.anchors:
            raise InputError("train.facts, train.unknowns and train.anchors are all 0: nothing would be trained on")
