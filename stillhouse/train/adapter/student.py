"""Student kind `adapter`: a LoRA adapter on the teacher's own base that answers without the memory.

In: one or more users' signals. Out: one adapter per user in PEFT's form. All users train in one batch of an
AdapterBank; each gets the adapter it would get alone. The loss is forward KL to the teacher on answer tokens (Kujanpää
et al. 2025, arXiv 2412.14964), plus the same on questions the memory does not answer and on the base's own answers to
unrelated prompts, plus what the base's curvature says of the drift on other text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import InputError
from ...lora import AdapterBank, LoraConfig
from ...losses import Tail
from ...models import Model
from ...signals import DistillArtifact
from ...trainer.precision import Precision, computing
from .anchors import anchors
from .batches import Mix, Source
from .fit import Plan, fit
from .start import AUTO, NONE, Start, begin, find

CHECKPOINT = "checkpoint-{}.safetensors"  # one for each group of users
ON_CPU, ON_ACCELERATOR = 8, 32  # users in one batch when nobody says
STEPS, RATE = 90, 12e-3  # without a start, when nobody says


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
        for name in (
            "rank",
            "alpha",
            "clip",
            "checkpoint_every",
            "batch_tokens",
            "anchor_every",
            "curvature_tokens",
        ):
            if getattr(self, name) <= 0:
                raise InputError(f"train.{name}: {getattr(self, name)} is not allowed; it must be more than 0")
        kinds = (
            "steps",
            "learning_rate",
            "facts",
            "unknowns",
            "anchors",
            "together",
            "fact_weight",
            "unknown_weight",
            "prompt_weight",
            "anchor_weight",
            "curvature_weight",
            "noise",
        )
        for name in ("warmup", "mastered", "anchored", "anchor_rows", "anchor_tokens", "unknown_wholes", *kinds):
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


def resolved(model: Model, config: Config) -> Config:
    """`config` with its start, steps and learning rate as they are for this model; the same again for one that is.

    `InputError` for a start that cannot be used.
    """
    start = _start(model, config)
    return replace(
        config,
        start=str(start.folder) if start else NONE,
        steps=config.steps or (start.steps if start else STEPS),
        learning_rate=config.learning_rate or (start.learning_rate if start else RATE),
    )


def from_zero(config: Config) -> Config:
    """A resolved `config` for training without a start, as long and as fast as that takes."""
    return config if config.start == NONE else replace(config, start=NONE, steps=STEPS, learning_rate=RATE)


def about(model: Model, config: Config) -> dict[str, Any]:
    """Everything that decides what comes of the same signals: the resolved settings, the start by its digest."""
    start = _start(model, config)
    return asdict(resolved(model, config)) | {"start": start.digest if start else ""}


def train(
    model: Model,
    signals: Sequence[Sequence[DistillArtifact]],
    config: Config = Config(),
    work: Path | None = None,
    on_step: Callable[[int, str], None] = lambda n, note: None,
) -> list[Trained]:
    """Train one adapter per entry of `signals`, `config.together` of them in one batch. With `work`, checkpoints go
    there and are resumed. `on_step(n, note)` is called for n of `total_steps`."""
    found: list[Trained] = []
    config = resolved(model, config)
    with computing(model, config.precision):
        for number, users in enumerate(_groups(len(signals), config, model.device)):
            file = work / CHECKPOINT.format(number) if work else None
            found += _train_group(model, [signals[u] for u in users], config, file, on_step)
    return found


def total_steps(users: Sequence[int], config: Config, device: torch.device) -> int:
    """Steps that training groups of so many users with a resolved `config` takes when nobody is done early."""
    return config.steps * sum(len(_groups(n, config, device)) for n in users)


def checkpoints(work: Path) -> list[Path]:
    """What a killed run left in its folder."""
    return sorted(work.glob(CHECKPOINT.format("*")))


def _groups(users: int, config: Config, device: torch.device) -> list[range]:
    size = config.together or (ON_CPU if device.type == "cpu" else ON_ACCELERATOR)
    return [range(start, min(start + size, users)) for start in range(0, users, size)]


def _train_group(
    model: Model,
    signals: Sequence[Sequence[DistillArtifact]],
    config: Config,
    file: Path | None,
    on_step: Callable[[int, str], None],
) -> list[Trained]:
    start = _start(model, config)
    bank = AdapterBank(model.network, len(signals), _shape(config))
    try:
        sources = {}
        for slot, artifacts in enumerate(signals):
            begin(bank, slot, config.seed, start)
            sources[slot] = Source(artifacts, _mix(config), config.seed, model.device)
        progress = fit(model, bank, sources, _plan(model, config), file, on_step)
        written = bank.adapter_config(model.ref)
    finally:
        bank.detach()
    return [
        Trained(progress.finished[slot], written, len(progress.losses[slot]), tuple(progress.losses[slot]))
        for slot in sources
    ]


def _start(model: Model, config: Config) -> Start | None:
    return find(model, config.start, _shape(config))


def _shape(config: Config) -> LoraConfig:
    return LoraConfig(config.rank, config.alpha, config.targets, config.experts)


def _plan(model: Model, config: Config) -> Plan:
    return Plan(
        config.steps,
        config.learning_rate,
        min(config.warmup, -(-config.steps // 8)),
        config.clip,
        config.mastered,
        config.anchored,
        config.tail,
        config.noise,
        config.seed,
        config.checkpoint_every,
        config.batch_tokens,
        anchors(
            model, config.anchor_rows, config.anchor_tokens, config.anchor_weight, config.anchor_every, config.seed
        ),
        config.curvature_weight,
        config.curvature_tokens,
    )


def _mix(config: Config) -> Mix:
    return Mix(
        rows={"fact": config.facts, "unknown": config.unknowns, "anchor": config.anchors},
        weights={
            "fact": config.fact_weight,
            "unknown": config.unknown_weight,
            "anchor": config.prompt_weight,
        },
        whole=config.unknown_wholes,
    )
