"""Student kind `adapter`: a LoRA adapter on the teacher's own base that answers without the memory.

In: one or more users' signals. Out: one adapter per user in PEFT's form. All users train in one batch of an
AdapterBank; each gets the adapter it would get alone. The loss is forward KL to the teacher on answer tokens, plus the
same on questions the memory does not answer, plus KL to the base on unrelated prompts and text against forgetting
(Kujanpää et al. 2025, arXiv 2412.14964).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..artifacts import DistillArtifact
from ..errors import InputError
from ..lora import AdapterBank, LoraConfig
from ..losses import Tail
from ..models import Model
from ._anchor import anchors
from ._batches import Mix, Source
from ._fit import Plan, fit

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Config:
    """`facts`, `unknowns` and `anchors` (unrelated prompts) are examples per user and step; weights are of each kind's
    mean loss (nats). `anchor_rows` windows of `anchor_tokens` of running text hold the student to the base, with a
    weight that grows from 0 to `anchor_weight`."""

    rank: int = 16
    alpha: float = 32.0
    targets: Literal["all", "attention", "mlp"] = "all"
    experts: bool = True
    learning_rate: float = 4e-3
    steps: int = 200
    warmup: int = 8
    facts: int = 16
    unknowns: int = 16
    anchors: int = 2
    anchor_rows: int = 3
    anchor_tokens: int = 48
    fact_weight: float = 1.0
    unknown_weight: float = 1.5
    prompt_weight: float = 0.5
    anchor_weight: float = 12.0
    clip: float = 1.0
    mastered: float = 0.2
    anchored: float = 0.015
    tail: Tail = "sampled"
    checkpoint_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "learning_rate", "steps", "clip", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"train.{name}: {getattr(self, name)} is not allowed; it must be more than 0")
        kinds = ("facts", "unknowns", "anchors", "fact_weight", "unknown_weight", "prompt_weight", "anchor_weight")
        for name in ("warmup", "mastered", "anchored", "anchor_rows", "anchor_tokens", *kinds):
            if getattr(self, name) < 0:
                raise InputError(f"train.{name}: {getattr(self, name)} is not allowed; it must be at least 0")
        if not self.facts + self.unknowns + self.anchors:
            raise InputError("train.facts, train.unknowns and train.anchors are all 0: nothing would be trained on")


@dataclass(frozen=True)
class Trained:
    """One user's adapter: PEFT's tensors and configuration, the steps it took and the loss of each."""

    tensors: dict[str, Tensor]
    adapter_config: dict[str, Any]
    steps: int
    losses: tuple[float, ...]


def train(
    model: Model,
    signals: Sequence[Sequence[DistillArtifact]],
    config: Config = Config(),
    work: Path | None = None,
    on_step: Callable[[int, str], None] = lambda n, note: None,
) -> list[Trained]:
    """Train one adapter per entry of `signals`, all in one batch. With `work`, checkpoints go there and are resumed."""
    lora = LoraConfig(config.rank, config.alpha, config.targets, config.experts)
    bank = AdapterBank(model.network, len(signals), lora)
    try:
        sources = {}
        for slot, artifacts in enumerate(signals):
            bank.reset(slot, config.seed)
            sources[slot] = Source(artifacts, _mix(config), config.seed, model.device)
        plan = Plan(
            config.steps,
            config.learning_rate,
            config.warmup,
            config.clip,
            config.mastered,
            config.anchored,
            config.tail,
            config.checkpoint_every,
            anchors(model, config.anchor_rows, config.anchor_tokens, config.anchor_weight, config.seed),
        )
        progress = fit(model, bank, sources, plan, work / CHECKPOINT if work else None, on_step)
        about = bank.adapter_config(model.ref)
    finally:
        bank.detach()
    return [
        Trained(progress.finished[slot], about, len(progress.losses[slot]), tuple(progress.losses[slot]))
        for slot in sources
    ]


def _mix(config: Config) -> Mix:
    return Mix(
        rows={"fact": config.facts, "unknown": config.unknowns, "anchor": config.anchors},
        weights={
            "fact": config.fact_weight,
            "unknown": config.unknown_weight,
            "anchor": config.prompt_weight,
        },
    )
