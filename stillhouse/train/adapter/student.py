"""Student kind `adapter`: a LoRA adapter on the teacher's own base that answers without the memory.

In: one or more users' signals. Out: one adapter per user in PEFT's form. All users train in one batch of an
AdapterBank; each gets the adapter it would get alone. The loss is forward KL to the teacher on answer tokens (Kujanpää
et al. 2025, arXiv 2412.14964), plus the same on questions the memory does not answer and on the base's own answers to
unrelated prompts, plus what the base's curvature says of the drift on other text.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import as_dict
from ...errors import InputError
from ...lora import AdapterBank, LoraConfig, check_sites
from ...models import Model
from ...records import BestStep, digest
from ...seeds import seed_of
from ...signals import DistillArtifact
from ...trainer.learner import Learner
from ...trainer.loop import Measured, Schedule, TrainingPlan, best_of, fit, validation_of
from ...trainer.muon import Muon
from ...trainer.precision import computing
from .anchors import Reference, anchors
from .batches import ExampleSource, Mix
from .forward import Forward
from .settings import Config
from .start import NONE, Start, begin, find
from .task import AdapterTask

CHECKPOINT = "checkpoint-{}.safetensors"  # one for each group of users
ON_CPU, ON_ACCELERATOR = 8, 32  # users in one batch when nobody says
DEFAULT = Config()
Artifacts = Sequence[DistillArtifact]
STEPS, RATE = 90, 12e-3  # without a start, when nobody says


@dataclass(frozen=True)
class Trained:
    """One user's adapter: PEFT's tensors and configuration, the steps it took and the loss of each.

    With validation the tensors are those of the first lowest loss on held-out examples.
    """

    tensors: dict[str, Tensor]
    adapter_config: dict[str, Any]
    steps: int
    losses: tuple[float, ...]
    validation: Measured = ()
    best: BestStep | None = None
    """The step that the tensors are of, None without validation."""


def resolved(model: Model, config: Config) -> Config:
    """`config` with its start, steps and learning rate as they are for this model; the same again for one that is.

    `InputError` for a start that cannot be used, and for dropout where stacked experts are adapted.
    """
    check_sites(model.network, _shape(config), "train")
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
    return as_dict(resolved(model, config)) | {"start": start.digest if start else ""}


def train(
    model: Model,
    signals: Sequence[Sequence[DistillArtifact]],
    config: Config = DEFAULT,
    work: Path | None = None,
    on_step: Callable[[int, str], None] = lambda n, note: None,
) -> list[Trained]:
    """Train one adapter per entry of `signals`, `config.together` of them in one batch. With `work`, checkpoints go
    there and are resumed. `on_step(n, note)` is called for n of `total_steps`."""
    trained: list[Trained] = []
    config = resolved(model, config)
    with computing(model, config.precision):
        for number, users in enumerate(_groups(len(signals), config, model.device)):
            file = work / CHECKPOINT.format(number) if work else None
            trained += _train_group(model, [signals[u] for u in users], config, file, on_step)
    return trained


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
        for slot in range(len(signals)):
            begin(bank, slot, config.seed, start)
        task = _task(model, bank, signals, config)
        plan = _plan(model, signals, config)
        progress = fit(task, plan, file, on_step)
        adapters, written = [bank.export(slot) for slot in range(len(signals))], bank.adapter_config(model.ref)
    finally:
        bank.detach()
    # values that bfloat16 holds exactly: gates measure what servers read in half the bytes
    rounded = [{name: t.bfloat16().float() for name, t in adapter.items()} for adapter in adapters]
    rows = zip(rounded, progress.losses, validation_of(progress), best_of(progress, plan), strict=True)
    return [
        Trained(adapter, written, len(losses), tuple(losses), measured, best)
        for adapter, losses, measured, best in rows
    ]


def _start(model: Model, config: Config) -> Start | None:
    return find(model, config.start, _shape(config))


def _shape(config: Config) -> LoraConfig:
    return LoraConfig(config.rank, config.alpha, config.targets, config.experts, config.dropout)


def _task(model: Model, bank: AdapterBank, signals: Sequence[Sequence[DistillArtifact]], config: Config) -> AdapterTask:
    windows = anchors(
        model, config.anchor_rows, config.anchor_tokens, config.anchor_weight, config.anchor_every, config.seed
    )
    reference = Reference(model, windows, config.steps, config.batch_tokens)
    parts = [_held_out(artifacts, config) if config.validate_every else (artifacts, ()) for artifacts in signals]
    sources = [ExampleSource(train, _mix(config), config.seed, model.device) for train, _ in parts]
    held_out = [ExampleSource(rest, _whole(rest, config), config.seed, model.device) for _, rest in parts if rest]
    forward = Forward(model, bank, reference, config.tail, config.noise, config.seed)
    return AdapterTask(Learner(model, bank.parameters(), Muon(bank.sites), bank), forward, sources, config, held_out)


def _held_out(artifacts: Sequence[DistillArtifact], config: Config) -> tuple[Artifacts, Artifacts]:
    """The examples of one user to train on, and those to validate on."""
    chosen: list[int] = []
    for kind in ("fact", "unknown"):
        own = [i for i, artifact in enumerate(artifacts) if artifact.kind == kind]
        count = max(1, round(config.held_out * len(own))) if len(own) > 1 else 0
        chosen += random.Random(seed_of("held out", config.seed, kind)).sample(own, count)
    if not chosen:
        raise InputError("train.validate_every: too few examples to hold any out; set it to 0")
    train = [artifact for i, artifact in enumerate(artifacts) if i not in chosen]
    return train, [artifacts[i] for i in sorted(chosen)]


def _whole(artifacts: Artifacts, config: Config) -> Mix:
    """All of these examples in one step, to the end."""
    counts = Counter(artifact.kind for artifact in artifacts)
    return replace(_mix(config), rows=counts, whole=counts["unknown"])


def _plan(model: Model, signals: Sequence[Sequence[DistillArtifact]], config: Config) -> TrainingPlan:
    schedule = Schedule(config.steps, config.learning_rate, min(config.warmup, -(-config.steps // 8)))
    read = [[[a.kind, a.x_ids, [t.position for t in a.targets]] for a in artifacts] for artifacts in signals]
    key = digest([about(model, config), model.fingerprint, read])
    note = "loss {loss:.3f}, {left}/{slots} mastered"
    often, patience = config.validate_every, config.patience
    schedules = [schedule] * len(signals)
    return TrainingPlan(schedules, config.clip, config.checkpoint_every, key, config.seed, often, patience, (), note)


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
