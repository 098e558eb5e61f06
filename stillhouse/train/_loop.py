"""The loop of a student that trains on a feed: micro-batches, AdamW, checkpoints, exact resume.

In: a network, the parameters that learn, a feed and the steps' example numbers. Out: the trained parameters, in place,
and the loss of every step in nats per target. A step's loss is the sum over all its micro-batches divided by all their
targets, once: how a batch is cut changes nothing.

A checkpoint is one safetensors file, replaced atomically; a run that goes on from it does what an uninterrupted one
does. A loss or a gradient that is not a number stops the run before the step is taken. It does not know where examples
come from or what kind of student this is.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..blobs import sync_folder
from ..errors import ModelError
from ..generate import head
from ..losses import Objective
from ..models import Model
from ._examples import Batch, Feed

OnStep = Callable[[int, str], None]
Rows = Callable[[int], AbstractContextManager[None]]
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Plan:
    """`steps` are example numbers per micro-batch per step; `key` names everything that a checkpoint depends on."""

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


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    losses: list[float] = field(default_factory=list)


def fit(
    model: Model,
    learning: Sequence[nn.Parameter],
    rows: Rows,
    feed: Feed,
    plan: Plan,
    file: Path | None,
    on_step: OnStep,
) -> Progress:
    """Train `learning`; goes on from `file` when it is there. `rows(n)`: what is entered around a batch of n rows."""
    optimizer = torch.optim.AdamW(learning, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay)
    progress = Progress()
    if file is not None and file.exists():
        _resume(file, learning, optimizer, plan, progress)
        on_step(progress.step, "resumed")
    while progress.step < len(plan.steps):
        loss = _step(model, learning, rows, feed, plan, optimizer, progress.step, file)
        progress.losses.append(loss)
        progress.step += 1
        if file is not None and (progress.step % plan.checkpoint_every == 0 or progress.step == len(plan.steps)):
            _save(file, learning, optimizer, plan, progress)
        on_step(1, f"loss {loss:.4f}")
    return progress


def _step(
    model: Model,
    learning: Sequence[nn.Parameter],
    rows: Rows,
    feed: Feed,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    step: int,
    file: Path | None,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate * schedule(step, len(plan.steps), plan.warmup)
    numbers = [i for part in plan.steps[step] for i in part]
    targets, total = max(1, sum(feed.positions[i] for i in numbers)), 0.0
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        for number, part in enumerate(plan.steps[step]):
            torch.manual_seed(hash((plan.seed, step, number)) & 0x7FFFFFFF)  # dropout, where a network has any
            data = feed.batch(part, model.tokenizer.pad_token_id or 0, model.device)
            with rows(len(part)):
                loss = _loss(model, data, plan) / targets
                total += float(loss.detach())
                _check("loss", total, step, part, file)
                loss.backward()
    norm = float(nn.utils.clip_grad_norm_(learning, plan.clip))
    _check("gradient", norm, step, numbers, file)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _loss(model: Model, data: Batch, plan: Plan) -> Tensor:
    """Sum over a micro-batch's targets, float32. Only target positions go through the LM head."""
    cast = torch.autocast(model.device.type, torch.bfloat16) if plan.autocast else nullcontext()
    with cast:
        hidden_BTH = model.network.base_model(
            input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
        ).last_hidden_state
        return data.losses(hidden_BTH, head(model), plan.objective).sum()


def _check(what: str, value: float, step: int, numbers: Sequence[int], file: Path | None) -> None:
    if math.isfinite(value):
        return
    kept = f"the last good checkpoint is {file}" if file is not None and file.exists() else "no checkpoint was kept"
    shown = ", ".join(str(n + 1) for n in numbers[:8]) + (", …" if len(numbers) > 8 else "")
    raise ModelError(
        f"the {what} is not a finite number at step {step + 1}, in the batch of examples {shown}; {kept}; try a lower "
        "learning rate, or leave these examples out"
    )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear over the first `warmup` share of steps, then a cosine to 5 %."""
    first = max(1, round(warmup * steps))
    if step < first:
        return (step + 1) / first
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


def _save(
    file: Path, learning: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, plan: Plan, progress: Progress
) -> None:
    tensors = {f"p/{i}": p.detach() for i, p in enumerate(learning)}
    for i, p in enumerate(learning):
        tensors |= {f"{name}/{i}": optimizer.state[p][name] for name in MOMENTS if p in optimizer.state}
    state = json.dumps({"step": progress.step, "losses": progress.losses, "key": plan.key})
    partial = file.parent / f".partial-{uuid.uuid4().hex}"
    try:
        save_file({k: t.contiguous() for k, t in tensors.items()}, partial, {"state": state})
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(file)
        sync_folder(file.parent)
    finally:
        partial.unlink(missing_ok=True)


@torch.no_grad()
def _resume(
    file: Path, learning: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, plan: Plan, progress: Progress
) -> None:
    try:
        with safe_open(file, framework="pt") as handle:
            state = json.loads(handle.metadata()["state"])
            if state["key"] != plan.key:
                raise ModelError(f"{file}: checkpoint of another run (other signals, settings or student); delete it")
            for i, p in enumerate(learning):
                p.copy_(handle.get_tensor(f"p/{i}"))
                if f"{MOMENTS[0]}/{i}" in handle.keys():  # noqa: SIM118 - the handle itself cannot be iterated
                    count, *moments = (handle.get_tensor(f"{name}/{i}") for name in MOMENTS)
                    moved = zip(MOMENTS[1:], (m.to(p) for m in moments), strict=True)
                    optimizer.state[p] = {MOMENTS[0]: count, **dict(moved)}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{file}: checkpoint cannot be read ({error}); delete it to start over") from error
    progress.step, progress.losses = int(state["step"]), [float(x) for x in state["losses"]]
