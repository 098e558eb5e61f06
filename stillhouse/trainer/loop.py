"""The loop of a student that trains on a feed: micro-batches, AdamW, checkpoints, exact resume.

In: a `Learner`, a feed and the steps' example numbers. Out: the trained parameters, in place, and the loss of every
step in nats per target. A step's loss is the sum over all its micro-batches divided by all their targets, once: how a
batch is cut, and over how many processes, changes nothing. Several adapters train in the same batches, each with its
own targets, its own clipping and its own schedule: each becomes what it would become alone.

A run that goes on from a checkpoint does what an uninterrupted one does. A loss or a gradient that is not a number
stops the run before the step is taken. It does not know where examples come from or what kind of student this is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ModelError
from ..feeds.same_tokens import Feed
from ..losses import Objective
from . import checkpoint
from .learner import Learner

OnStep = Callable[[int, str], None]


@dataclass(frozen=True)
class Plan:
    """`steps` are example numbers per micro-batch per step; `key` names everything that a checkpoint depends on.

    `slots` is the adapter of every example (empty: all 0), `lasts` how many steps each adapter trains, `names` what
    they are called when something is wrong.
    """

    steps: Sequence[Sequence[Sequence[int]]]
    learning_rate: float
    warmup: float
    weight_decay: float
    clip: float
    objective: Objective
    autocast: bool
    checkpoint_every: int
    seed: int
    key: str
    slots: Sequence[int] = ()
    lasts: Sequence[int] = ()
    names: Sequence[str] = ()

    def of(self, numbers: Sequence[int]) -> list[int]:
        """The slots of these examples."""
        return [self.slots[i] if self.slots else 0 for i in numbers]

    def rates(self, step: int) -> list[float]:
        """The learning rate of every slot; 0 once it has had its steps."""
        lasts = self.lasts or (len(self.steps),)
        return [self.learning_rate * schedule(step, last, self.warmup) if step < last else 0.0 for last in lasts]


@dataclass
class Progress:
    """Where a run is: `losses[slot][step]`."""

    step: int = 0
    losses: list[list[float]] = field(default_factory=list)


def fit(learner: Learner, feed: Feed, plan: Plan, file: Path | None, on_step: OnStep) -> Progress:
    """Train; goes on from `file` when it is there."""
    optimizer = torch.optim.AdamW(
        learner.parameters, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay
    )
    progress = Progress(0, [[] for _ in range(learner.slots)])
    if file is not None and file.exists():
        state = checkpoint.resume(file, learner.parameters, optimizer, plan.key)
        progress = Progress(int(state["step"]), [list(map(float, losses)) for losses in state["losses"]])
        on_step(progress.step, "resumed")
    while progress.step < len(plan.steps):
        rates, losses = plan.rates(progress.step), _gradients(learner, feed, plan, progress.step, file)
        learner.advance(optimizer, rates)
        training = [slot for slot, rate in enumerate(rates) if rate]
        for slot in training:
            progress.losses[slot].append(losses[slot])
        progress.step += 1
        if file is not None and (progress.step % plan.checkpoint_every == 0 or progress.step == len(plan.steps)):
            state = {"step": progress.step, "losses": progress.losses, "key": plan.key}
            checkpoint.save(file, learner.parameters, optimizer, state, learner.here)
        on_step(1, f"loss {sum(losses[slot] for slot in training) / len(training):.4f}")
    return progress


def _gradients(learner: Learner, feed: Feed, plan: Plan, step: int, file: Path | None) -> list[float]:
    """The gradients of one step, clipped, and every slot's loss per target."""
    model, numbers = learner.model, [i for part in plan.steps[step] for i in part]
    targets_S, total_S = torch.zeros(learner.slots), torch.zeros(learner.slots, device=model.device)
    targets_S.index_add_(0, torch.tensor(plan.of(numbers)), torch.tensor([float(feed.positions[i]) for i in numbers]))
    share_S = 1 / targets_S.clamp(min=1).to(model.device)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        for number, part in enumerate(plan.steps[step]):
            torch.manual_seed(hash((plan.seed, step, number)) & 0x7FFFFFFF)  # dropout, where a network has any
            mine = learner.here.mine(part)
            with learner.rows(plan.of(mine or part[:1])):
                loss_S = _losses(learner, feed, plan, mine or part[:1], share_S) * bool(mine)
                total_S += learner.here.add(loss_S.detach().clone())
                _check("loss", total_S.tolist(), plan, step, part, file)
                learner.backward(loss_S.sum())
    _check("gradient", learner.clip(plan.clip), plan, step, numbers, file)
    return [float(x) for x in total_S]


def _losses(learner: Learner, feed: Feed, plan: Plan, numbers: Sequence[int], share_S: Tensor) -> Tensor:
    """Every slot's loss on a micro-batch, each target weighed by its slot's `share_S`, float32."""
    device = learner.model.device
    data = feed.batch(numbers, learner.model.tokenizer.pad_token_id or 0, device)
    cast = torch.autocast(device.type, torch.bfloat16) if plan.autocast else nullcontext()
    with cast:
        loss_P: Tensor = learner.losses(data, plan.objective)
    counts = torch.tensor([feed.positions[i] for i in numbers], device=device)
    slot_P = torch.tensor(plan.of(numbers), device=device).repeat_interleave(counts)
    return loss_P.new_zeros(learner.slots).index_add(0, slot_P, loss_P * share_S[slot_P])


def _check(
    what: str, values: Sequence[float], plan: Plan, step: int, numbers: Sequence[int], file: Path | None
) -> None:
    wrong = [slot for slot, value in enumerate(values) if not math.isfinite(value)]
    if not wrong:
        return
    kept = f"the last good checkpoint is {file}" if file is not None and file.exists() else "no checkpoint was kept"
    shown = ", ".join(str(n + 1) for n in numbers[:8]) + (", …" if len(numbers) > 8 else "")
    whose = f" of {plan.names[wrong[0]]}" if plan.names else ""
    raise ModelError(
        f"the {what}{whose} is not a finite number at step {step + 1}, in the batch of examples {shown}; {kept}; try a "
        "lower learning rate, or leave these examples out"
    )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear over the first `warmup` share of steps, then a cosine to 5 %."""
    first = max(1, round(warmup * steps))
    if step < first:
        return (step + 1) / first
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))
