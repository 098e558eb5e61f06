"""The start of students that have little in common but how they are asked: the mean of many (Reptile).

In: a model reference and memories that are nobody's secret. Out: a folder of a start (`train/adapter/start.py`).

The method is Reptile (Nichol et al. 2018, arXiv 1803.02999). In every round the students of some of the memories begin
with the start of the round before, and train as long as they will from the finished one. The mean of their adapters is
the next start. What the students have in common adds up. What each learned of its own memory averages out, more so
with more memories, but not to nothing: prime with memories that anybody may know.

A round is the capture and training of `consolidation/run.py`, in a home of its own that is removed at the end. So a
killed run is run again and goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from stillhouse import models
from stillhouse.consolidation import run, synthetic
from stillhouse.consolidation.judge import lora_config
from stillhouse.consolidation.settings import Settings
from stillhouse.errors import InputError
from stillhouse.export import peft
from stillhouse.inputs import home_folder
from stillhouse.models import Model
from stillhouse.records import Candidate, digest
from stillhouse.storage.files import make_folder
from stillhouse.store import Store
from stillhouse.train import adapter
from stillhouse.train.adapter.start import AUTO, NONE, write

FRESH = 10_000  # the first seed of generated memories: no calibration measures with these
FIRST = 2  # the first round, from zero, takes so many times the steps


@dataclass(frozen=True)
class Plan:
    """How many rounds there are, and how their students train."""

    rounds: int = 11
    """Rounds after the first; at least 1."""
    parts: int = 2
    """A round trains on every `parts`-th memory, the next round on those after them; at least 1."""
    steps: int = 40
    """Steps of a student that begins with a start; at least 1."""
    learning_rate: float = 0.01
    """Peak learning rate of such a student; more than 0."""

    def __post_init__(self) -> None:
        for name in ("rounds", "parts", "steps", "learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: {getattr(self, name)} is not allowed; it must be more than 0")


def generated(numbers: Sequence[int]) -> dict[str, str]:
    """Plain notes that nobody wrote, by name; the same number, the same text."""
    return {f"memory-{number}": synthetic.memory(FRESH + number) for number in numbers}


def prime(
    memories: Mapping[str, str], folder: Path, *, model: str = models.DEFAULT, home: Path | str | None = None,
    settings: Settings = run.DEFAULTS, plan: Plan = Plan(), show: bool = False, workers: int = 1,
) -> list[float]:  # fmt: skip
    """Write the start of `model` to `folder`. Returns the students' mean loss in the last three steps of every round.

    Raises `InputError` for a plan with more parts than memories, a memory that cannot be captured, or a start in
    `settings`; `StoreError` for a folder that cannot be written.
    """
    if len(memories) < plan.parts:
        raise InputError(f"{len(memories)} memories in {plan.parts} parts: every part needs one at least")
    if settings.train.start != AUTO:
        raise InputError(
            f"train.start: {settings.train.start!r}; here a round begins with the one before, leave it out"
        )
    base = models.load(model, home=home_folder(home))
    make_folder(folder)  # what is wrong with it is told now, not when all is done
    about = {"base": base.fingerprint, "memories": digest(dict(memories)), "plan": asdict(plan)}
    work = home_folder(home) / "priming" / digest(about | {"settings": asdict(settings)})[:16]
    losses: list[float] = []
    before = NONE
    for number in range(plan.rounds + 1):
        settings = replace(settings, train=_train(settings, plan, before, number))
        names = list(memories)[number % plan.parts :: plan.parts]
        candidates = run.candidates(
            {name: memories[name] for name in names}, model=str(base.path), home=work, settings=settings, show=show,
            workers=workers, note=f"round {number} of {plan.rounds}",
        )  # fmt: skip
        losses.append(_last(list(candidates.values())))
        about_start = {"plan": asdict(plan), "memories": len(memories), "losses": losses}
        into = folder if number == plan.rounds else work / f"round-{number}"
        _write(into, base, list(candidates.values()), Store(work), plan, about_start)
        before = str(into)
    shutil.rmtree(work)
    return losses


def _train(settings: Settings, plan: Plan, before: str, number: int) -> adapter.Config:
    """How the students of one round train: to the end, and with a seed of their own."""
    steps = plan.steps if number else FIRST * plan.steps
    rate = plan.learning_rate if number else 0.0
    return replace(settings.train, start=before, steps=steps, learning_rate=rate, mastered=0.0, seed=number)


def _last(candidates: Sequence[Candidate]) -> float:
    """Mean loss of the last three steps."""
    return round(sum(sum(c.losses[-3:]) / len(c.losses[-3:]) for c in candidates) / len(candidates), 4)


def _write(
    folder: Path, model: Model, candidates: Sequence[Candidate], store: Store, plan: Plan, about: Mapping[str, object]
) -> None:  # fmt: skip
    """The mean of the candidates' adapters becomes a start; `about` stands in it."""
    total: dict[str, Tensor] = {}
    for candidate in candidates:
        for name, tensor in peft.from_bytes(store.blobs.get(candidate.adapter)).items():
            total[name] = total.get(name, torch.zeros(())) + tensor.float()
    config = candidates[0].adapter_config | {"base_model_name_or_path": model.ref}
    mean = {name: tensor / len(candidates) for name, tensor in total.items()}
    shape = lora_config(candidates[0])
    write(folder, model, mean, config, shape, plan.steps, plan.learning_rate, json.loads(json.dumps(about)))
