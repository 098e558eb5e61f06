"""The training loop: gradients, clipping, the optimiser's step, checkpoints, exact resume.

In: a `Task` and a `TrainingPlan`. Out: the trained parameters, in place, and the loss of every step of every slot. A
slot is one adapter, or all weights of a network. Slots train side by side, each with its own losses, clipping and
schedule. A slot leaves when its steps are over, when the task says that it has mastered everything, or when validation
shows no gain for long. It stands still from then on.

A run that goes on from a checkpoint does what an uninterrupted one does. A loss or a gradient that is not a number
stops the run before the step is taken. The loop does not know examples or kinds of students.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple, Protocol

from torch import Tensor

from ..config import SettingError
from ..errors import ModelError
from ..records import BestStep
from ..seeds import seed_of
from . import checkpoint
from .checkpoint import Best
from .learner import Learner

OnStep = Callable[[int, str], None]
Examples = Sequence[Sequence[int]]  # example numbers by slot
Measured = tuple[tuple[int, float], ...]  # steps, and the loss on held-out examples after so many
SHOWN = 8  # examples that an error names


class Check(Protocol):
    """Raises where a number is not finite."""

    def __call__(self, what: str, values: Sequence[float], examples: Examples) -> None:
        """`values` by slot are those of `what`, computed on `examples`."""


class Task(Protocol):
    """What is trained, on what."""

    learner: Learner

    def gradients(self, step: int, active: Sequence[int], check: Check) -> tuple[Sequence[float], Examples]:
        """Add the gradients of a step of the `active` slots; returns every slot's loss, and what was read. `check` has
        to see every loss before its backward pass."""

    def mastered(self, active: Sequence[int]) -> Sequence[int]:
        """Slots among `active` that have learned everything."""
        return ()

    def validate(self, slots: Sequence[int]) -> Sequence[float]:
        """The loss of each of `slots` on examples that nobody trains on, without dropout or noise."""

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the learner's, named: the tensors themselves."""
        return {}


class Schedule(NamedTuple):
    """The learning rate of one slot: `steps` and `warmup` in steps, `peak` the highest rate."""

    steps: int
    peak: float
    warmup: int

    def rate(self, step: int) -> float:
        """Linear over the warm-up, then a cosine to 5 % of the peak."""
        if step < self.warmup:
            return self.peak * ((step + 1) / self.warmup)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class TrainingPlan:
    """How a task is trained."""

    schedules: Sequence[Schedule]
    """One for every slot."""
    clip: float
    """Largest norm of a slot's gradient."""
    checkpoint_every: int
    """Steps between checkpoints; the last step always has one."""
    key: str
    """Digest of everything that decides what comes of the run."""
    seed: int = 0
    """Of dropout."""
    validate_every: int = 0
    """Steps between validations; 0: none. A slot is validated at its last step too."""
    patience: int = 0
    """Validations in a row without a better one after which a slot leaves; 0: it takes all its steps."""
    names: Sequence[str] = ()
    """What the slots are called in errors."""
    note: str = "loss {loss:.4f}"
    """What `on_step` hears after each step, with `loss` (mean of the active slots), `left` and `slots`."""


@dataclass
class Progress:
    """Where a run is."""

    losses: list[list[float]]
    """Of every slot, one per step."""
    validation: list[list[tuple[int, float]]]
    """Of every slot: steps, and the loss on held-out examples after so many. The first lowest has the best weights."""
    step: int = 0
    """Steps that are done."""
    left: list[int] = field(default_factory=list)
    """Slots that were done before their steps were over."""

    def active(self, plan: TrainingPlan) -> list[int]:
        """Slots that go on."""
        return [s for s, own in enumerate(plan.schedules) if self.step < own.steps and s not in self.left]


def fit(task: Task, plan: TrainingPlan, file: Path | None, on_step: OnStep) -> Progress:
    """Train; goes on from `file` when it is there. Checkpoints are written before `on_step` hears of their step.

    Where slots are validated, each has its best weights afterwards.
    """
    learner, slots = task.learner, len(plan.schedules)
    tensors, best = learner.tensors() | task.tensors(), Best(file, plan.key, learner.here)
    progress = Progress([[] for _ in range(slots)], [[] for _ in range(slots)])
    if state := checkpoint.resume(file, tensors, plan.key):
        progress = replace(progress, **{name: state[name] for name in vars(progress) if name in state})
        on_step(progress.step, "resumed")
    while active := progress.active(plan):
        step, check = progress.step, partial(_check, plan, progress.step, file)
        with learner.dropping(seed_of("dropout", plan.seed, step)):
            losses, examples = task.gradients(step, active, check)
        check("gradient", learner.clip(plan.clip), examples)
        rates = [own.rate(step) if slot in active else 0.0 for slot, own in enumerate(plan.schedules)]
        learner.optimizer.step(rates)
        for slot in active:
            progress.losses[slot].append(losses[slot])
        progress.step += 1
        progress.left += task.mastered(active)
        validated = _validate(task, plan, progress, active, check, best)
        remaining = progress.active(plan)
        if file is not None and (progress.step % plan.checkpoint_every == 0 or not remaining):
            checkpoint.save(file, tensors, vars(progress), plan.key, learner.here)
        loss = mean([losses[slot] for slot in active])
        on_step(1, plan.note.format(loss=loss, left=slots - len(remaining), slots=slots) + validated)
    for slot in (slot for slot, measured in enumerate(progress.validation) if measured):
        best.take(slot, learner.weights(slot))
    return progress


def _validate(
    task: Task, plan: TrainingPlan, progress: Progress, active: Sequence[int], check: Check, best: Best
) -> str:
    """Measure the slots whose turn it is, or that have just left, and keep the weights of those that are better than
    ever. Returns what the note of the step says about it."""
    if not plan.validate_every:
        return ""
    turn = progress.step % plan.validate_every == 0
    due = [slot for slot in active if turn or slot not in progress.active(plan)]
    losses = dict(zip(due, task.validate(due), strict=True)) if due else {}
    check("validation loss", [losses.get(slot, 0.0) for slot in range(len(plan.schedules))], ())
    for slot, loss in losses.items():
        measured = progress.validation[slot]
        measured.append((progress.step, loss))
        worse = len(measured) - 1 - min(range(len(measured)), key=lambda n: measured[n][1])
        if not worse:
            best.keep(slot, task.learner.weights(slot))
        elif plan.patience and worse >= plan.patience and slot in progress.active(plan):
            progress.left.append(slot)
    return f", held out {mean(losses.values()):.3f}" if losses else ""


def validation_of(progress: Progress) -> tuple[Measured, ...]:
    """Of every slot what was measured, as a record has it."""
    return tuple(tuple((int(step), float(loss)) for step, loss in own) for own in progress.validation)


def best_of(progress: Progress, plan: TrainingPlan) -> tuple[BestStep | None, ...]:
    """Of every slot the step whose weights it has, None where it was not validated."""
    return tuple(
        _best(measured, slot in progress.left, plan.patience) for slot, measured in enumerate(validation_of(progress))
    )


def _best(measured: Measured, left: bool, patience: int) -> BestStep | None:
    """The first lowest of what was measured. A slot can also have left because it had mastered everything."""
    if not measured:
        return None
    number = min(range(len(measured)), key=lambda n: measured[n][1])
    return BestStep(*measured[number], stopped_early=left and 0 < patience < len(measured) - number)


def check_patience(patience: int, validate_every: int) -> None:
    """`SettingError` for patience that nothing is validated for."""
    if patience and not validate_every:
        raise SettingError(
            "train", "patience", f"{patience} waits for validations, and there are none; set validate_every too"
        )


def by_slot(numbers: Sequence[int], owners: Sequence[int], slots: int) -> list[list[int]]:
    """Example numbers, cut by the slot that owns each."""
    return [[n for n, owner in zip(numbers, owners, strict=True) if owner == slot] for slot in range(slots)]


def _check(
    plan: TrainingPlan, step: int, file: Path | None, what: str, values: Sequence[float], examples: Examples
) -> None:
    """One `ModelError` that says whose number is not finite, when, on which examples, and what was kept."""
    wrong = next((slot for slot, value in enumerate(values) if not math.isfinite(value)), None)
    if wrong is None:
        return
    whose = f" of {plan.names[wrong]}" if plan.names else f" of adapter {wrong + 1}" if len(values) > 1 else ""
    own = examples[wrong] if examples else ()
    shown = ", ".join(str(n + 1) for n in own[:SHOWN]) + ", …" * (len(own) > SHOWN)
    batch = f", in the batch of examples {shown}" if own else ""
    kept = f"the last good checkpoint is {file}" if file is not None and file.exists() else "no checkpoint was kept"
    raise ModelError(
        f"the {what}{whose} is not a finite number at step {step + 1}{batch}; {kept}; try a "
        "lower learning rate, or leave these examples out"
    )
