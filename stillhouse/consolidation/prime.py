"""Prime a base: teach it the trade, once, from notes that people wrote with questions.

In: a base, notes (`text/notes.py`), a plan. Out: a folder of a start (`train/adapter/start.py`): an adapter with which
the base reads notes and answers in the note's own words, writes questions about a statement, and says that it does not
know what it was not told. Students begin with it, and it can stand in for the base as teacher and writer.

The lessons are those of `capture/notes/`, learned as hard labels by the trainer that students have. A few short trials
find the learning rate: the one with the least loss on lessons that are held out. Every rate and the training itself go
on from their checkpoints after a kill.

It does not know which notes these are: what is in them goes, faintly, into every student.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .. import models
from ..capture.memory.study import anchors
from ..capture.notes import Config, artifacts, lessons_of
from ..errors import InputError
from ..inputs import home_folder
from ..lora import LoraConfig
from ..models import Model
from ..progress import Audience, progress
from ..records import digest
from ..signals import DistillArtifact
from ..storage.files import make_folder
from ..text.notes import Note
from ..train import adapter
from ..train.adapter.start import FOLDER, NONE, write
from .settings import Settings

TAUGHT = Path(__file__).parents[1] / "assets" / "study" / "taught"
"""The notes that a base is primed on when nobody gives others."""
STUDENT_STEPS, STUDENT_RATE = 60, 3e-3  # what a student that begins here trains for, where nobody says


def _training() -> adapter.Config:
    return adapter.Config(
        start=NONE, facts=12, unknowns=4, unknown_wholes=1, anchors=1, unknown_weight=0.3, prompt_weight=0.2,
        curvature_weight=0.0, noise=0.3, mastered=0.0, validate_every=50, held_out=0.04, patience=4,
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How a base is primed."""

    lessons: Config = field(default_factory=Config)
    """How many lessons are made of a line."""
    train: adapter.Config = field(default_factory=_training)
    """How they are learned. `steps` and `learning_rate` of 0 are found: from `epochs`, and by trials of `rates`."""
    epochs: float = 2.0
    """How often a lesson comes, on average; more than 0."""
    rates: tuple[float, ...] = (1.5e-3, 3e-3, 6e-3)
    """Peak learning rates that are tried, at least one."""
    trial_steps: int = 16
    """Steps of a trial, at least 1."""

    def __post_init__(self) -> None:
        for name in ("epochs", "trial_steps"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: {getattr(self, name)} is not allowed; it must be more than 0")
        if not self.rates or min(self.rates) <= 0:
            raise InputError(f"rates: {list(self.rates)} is not allowed; at least one, each more than 0")


@dataclass(frozen=True)
class Primed:
    """What came of it."""

    folder: str
    """Where the start lies."""
    lessons: dict[str, int]
    """Lessons by task."""
    trials: dict[str, float]
    """Loss on held-out lessons by learning rate, nats; empty where the rate was given."""
    learning_rate: float
    """The peak that was taken."""
    steps: int
    """Steps of the training."""
    validation: tuple[tuple[int, float], ...]
    """(step, loss on held-out lessons) of the training, nats."""


def prime(
    model: Model, notes: Sequence[Note], folder: Path, *, home: Path | str | None = None, plan: Plan = Plan(),
    show: Audience = False,
) -> Primed:  # fmt: skip
    """Write the start of `model` to `folder`, whole. Run again after a kill, it goes on where it was.

    Raises `InputError` for notes that give no lesson, `StoreError` for a folder that cannot be written.
    """
    lessons = lessons_of(notes, plan.lessons)
    if not lessons:
        raise InputError("the notes give no lesson: no line of them has a fact with questions")
    make_folder(folder)  # what is wrong with it is told now, not when all is done
    examples = [*artifacts(model, lessons), *anchors(model, Settings().capture)]
    work = home_folder(home) / "priming" / digest([model.fingerprint, asdict(plan), [asdict(n) for n in notes]])[:16]
    make_folder(work)
    config, trials = _with_rate(model, examples, _with_steps(plan, len(lessons)), plan, work, show)
    trained = _train(model, examples, config, work / "training", show, "train")
    primed = Primed(
        str(folder), dict(Counter(lesson.task for lesson in lessons)), trials, config.learning_rate, trained.steps,
        trained.validation,
    )  # fmt: skip
    shape = LoraConfig(config.rank, config.alpha, config.targets, config.experts)
    about = trained.adapter_config | {"base_model_name_or_path": model.ref}
    write(folder, model, trained.tensors, about, shape, STUDENT_STEPS, STUDENT_RATE, asdict(primed))
    shutil.rmtree(work)
    return primed


def beside(ref: str, home: Path | str | None = None) -> Path:
    """Where the base `ref` finds its start by itself. `InputError` for one that is no folder of the user here."""
    folder = models.here(ref, home_folder(home)) if ref != models.DEFAULT else None
    if folder is None:
        raise InputError(f"{ref}: say with --out where the start goes; only a local folder gets it beside its weights")
    return folder / FOLDER


def _with_steps(plan: Plan, lessons: int) -> adapter.Config:
    """The training with as many steps as its epochs take."""
    rows = plan.train.facts + plan.train.unknowns
    return replace(plan.train, steps=plan.train.steps or max(1, round(plan.epochs * lessons / rows)))


def _with_rate(
    model: Model, examples: Sequence[DistillArtifact], config: adapter.Config, plan: Plan, work: Path, show: Audience
) -> tuple[adapter.Config, dict[str, float]]:
    """The training with the rate whose trial has the least loss on held-out lessons, and all trials' losses."""
    if config.learning_rate:
        return config, {}
    losses: dict[float, float] = {}
    for rate in plan.rates:
        short = replace(config, steps=plan.trial_steps, learning_rate=rate, validate_every=plan.trial_steps, patience=0)
        trained = _train(model, examples, short, work / f"rate-{rate}", show, f"try {rate}")
        losses[rate] = trained.validation[-1][1]
    best = min(losses, key=lambda rate: losses[rate])
    return replace(config, learning_rate=best), {str(rate): round(loss, 4) for rate, loss in losses.items()}


def _train(
    model: Model, examples: Sequence[DistillArtifact], config: adapter.Config, folder: Path, show: Audience, what: str
) -> adapter.Trained:
    make_folder(folder)
    with progress("prime", config.steps, show, user=what) as step:
        (trained,) = adapter.train(model, [examples], config, folder, step)
    return trained
