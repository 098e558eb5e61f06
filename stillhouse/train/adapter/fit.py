"""The loop: batches through the network, sparse KL at the targets, Muon on the bank, until everything is mastered.

In: an AdapterBank and one `Source` per slot. Out: per slot its adapter at the step it was finished, and its losses.
The loop is blind to what the examples mean and to what kind of student is trained.

A slot leaves the batch when the newest loss of each of its examples is under `mastered` and its drift from the base on
other text under `anchored`, and its adapter is taken at that step, so users trained together get what each would get
alone. Everything needed to go on after a kill is in one safetensors file, replaced atomically.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from ...errors import ModelError
from ...generate import head
from ...lora import AdapterBank
from ...losses import Tail, chunked_forward_kl
from ...models import Model
from ...storage.files import write_atomic
from ...trainer import padding_free
from ...trainer.muon import Muon
from ...trainer.precision import attention
from .anchors import Anchors, Reference, anchor_loss, drifts
from .batches import Batch, Source, batches
from .curvature import Curvature, curvature
from .noise import noisy

DRIFT_WINDOW = 0.1  # of a running mean over anchors, per step
OnStep = Callable[[int, str], None]


@dataclass(frozen=True)
class Plan:
    """What the loop needs to know. `learning_rate` is the peak of a cosine with a linear warm-up."""

    steps: int
    learning_rate: float
    warmup: int
    clip: float
    mastered: float
    anchored: float
    tail: Tail
    noise: float
    seed: int
    checkpoint_every: int
    batch_tokens: int
    anchors: Anchors
    curvature_weight: float
    curvature_tokens: int


@dataclass
class Progress:
    """Where a run is. `latest` holds each slot's newest loss per example, nan before the first visit."""

    step: int = 0
    losses: dict[int, list[float]] = field(default_factory=dict)
    latest: dict[int, Tensor] = field(default_factory=dict)
    finished: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    drift: dict[int, float] = field(default_factory=dict)  # KL from the base on other text, nats per token


def fit(
    model: Model, bank: AdapterBank, sources: Mapping[int, Source], plan: Plan, file: Path | None, on_step: OnStep
) -> Progress:
    """Train all slots of `sources`; resumes from `file` when it is there. `ModelError` when a loss is not finite."""
    optimizer = Muon(bank.sites)
    progress = Progress(latest={s: torch.full((len(src.artifacts),), math.nan) for s, src in sources.items()})
    progress.losses = {s: [] for s in sources}
    reference = Reference(model, plan.anchors, plan.steps, plan.batch_tokens)
    if file is not None and file.exists():
        _resume(file, bank, optimizer, progress)
        on_step(progress.step, "resumed")
    form = None
    while progress.step < plan.steps and len(progress.finished) < len(sources):
        if plan.curvature_weight and form is None:
            form = curvature(model, bank, plan.curvature_tokens, plan.seed)
        active = {s: src for s, src in sources.items() if s not in progress.finished}
        _step(model, bank, active, plan, reference, form, optimizer, progress)
        progress.step += 1
        _finish(bank, active, plan, progress)
        mean = sum(progress.losses[s][-1] for s in active) / len(active)
        on_step(1, f"loss {mean:.3f}, {len(progress.finished)}/{len(sources)} mastered")
        done = progress.step >= plan.steps or len(progress.finished) == len(sources)
        if file is not None and (done or progress.step % plan.checkpoint_every == 0):
            _save(file, bank, optimizer, progress)
    return progress


def _step(
    model: Model,
    bank: AdapterBank,
    active: Mapping[int, Source],
    plan: Plan,
    reference: Reference,
    form: Curvature | None,
    optimizer: Muon,
    progress: Progress,
) -> None:
    hard = {slot: _unmastered(progress.latest[slot], source, plan) for slot, source in active.items()}
    for slot in active:
        progress.losses[slot].append(0.0)
    pad = model.tokenizer.pad_token_id or 0
    held = sorted(active) if plan.anchors.due(progress.step) else []  # who has still to be held to the base
    for data in batches(active, progress.step, pad, model.device, hard, plan.batch_tokens):
        along = held if _room(model, data, held, plan, progress.step) else []
        loss_P, drift_S = _losses(model, bank, data, along, plan, reference, progress.step)
        weighted_P = loss_P * data.weight_P
        loss = weighted_P.sum() + plan.anchors.weight * _late(plan, progress.step) * drift_S.sum()
        if not torch.isfinite(loss):
            raise ModelError(f"training loss is not finite at step {progress.step}; try a lower learning rate")
        loss.backward()
        _record(data, loss_P.detach(), weighted_P.detach(), progress)
        _drifted(along, drift_S, plan, progress)
        held = held if not along else []
    each = max(1, plan.batch_tokens // max(1, plan.anchors.rows * plan.anchors.tokens))
    for some in (held[start : start + each] for start in range(0, len(held), each)):
        drift_S = anchor_loss(model, bank, some, reference, progress.step)
        (plan.anchors.weight * _late(plan, progress.step) * drift_S.sum()).backward()
        _drifted(some, drift_S, plan, progress)
    if form is not None:
        drift_S = form.pull(plan.curvature_weight * _late(plan, progress.step))
        if not plan.anchors.passages:
            progress.drift = {slot: float(drift_S[slot]) for slot in active}
    if not bool(torch.isfinite(bank.clip_per_slot(plan.clip)).all()):
        raise ModelError(f"training gradient is not finite at step {progress.step}; try a lower learning rate")
    optimizer.step(plan.learning_rate * _schedule(progress.step, plan))


def _late(plan: Plan, step: int) -> float:
    """How much drift from the base weighs: facts are learned first, then what they disturbed is put back."""
    return (step + 1) / plan.steps


def _drifted(slots: Sequence[int], drift_S: Tensor, plan: Plan, progress: Progress) -> None:
    for slot, drift in zip(slots, drift_S.tolist(), strict=True):
        before = progress.drift.get(slot, drift)
        progress.drift[slot] = before + DRIFT_WINDOW * plan.anchors.every * (drift - before)


def _room(model: Model, data: Batch, slots: Sequence[int], plan: Plan, step: int) -> bool:
    """Whether the anchors' windows of all `slots` go through the network beside the rows of `data`."""
    if not slots or not padding_free.fits(model):
        return False
    return sum(data.lengths) + len(slots) * sum(map(len, plan.anchors.windows(step))) <= plan.batch_tokens


def _losses(
    model: Model, bank: AdapterBank, data: Batch, along: Sequence[int], plan: Plan, reference: Reference, step: int
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) in nats, loss_P, and of the slots in `along` the drift from the base, drift_S. Only target
    positions go through the LM head."""
    if not padding_free.fits(model):
        hidden_PH, window_XH = _padded(model, bank, data, plan, step), None
    else:
        hidden_PH, window_XH = _side_by_side(model, bank, data, along, plan, step)
    loss_P = chunked_forward_kl(hidden_PH, _of_few_shapes(head(model)), data.targets, plan.tail)
    if window_XH is None or not along:
        return loss_P, loss_P.new_zeros(0)
    return loss_P, drifts(model, reference, step, window_XH, len(along))


def _padded(model: Model, bank: AdapterBank, data: Batch, plan: Plan, step: int) -> Tensor:
    """Last hidden states at the targets, `[P, H]`, of rows as long as the longest."""
    with (
        bank.rows(data.slots, wide=model.device.type == "cpu"),
        attention(model, data.ids_BT.shape[1]),
        noisy(model, data, plan.noise, plan.seed, step),
    ):
        hidden_BTH: Tensor = model.network.base_model(
            input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
        ).last_hidden_state
    return hidden_BTH[data.row_P, data.column_P]


def _side_by_side(
    model: Model, bank: AdapterBank, data: Batch, along: Sequence[int], plan: Plan, step: int
) -> tuple[Tensor, Tensor]:
    """The same from one forward without padding, and the last hidden states `[X, H]` of the windows of every slot in
    `along`."""
    windows = plan.anchors.windows(step) if along else []
    groups = [data.lengths, *([[len(ids) for _ in along for ids in windows]] if along else [])]
    rows = [*zip(data.slots, data.lengths, strict=True), *((slot, len(ids)) for slot in along for ids in windows)]
    slots = [slot for slot, length in rows for _ in range(length)]
    extra_X = torch.tensor([token for _ in along for ids in windows for token in ids], device=model.device)
    ids_T = torch.cat([data.ids_BT[data.mask_BT.bool()], extra_X.long()])
    end_B = torch.tensor(data.lengths, device=model.device).cumsum(0)
    target_P, end = F.pad(end_B, (1, 0))[data.row_P] + data.column_P, int(end_B[-1])
    read_T = (torch.arange(len(ids_T), device=model.device) >= end).index_fill(0, target_P, True)
    first = [*data.first, *range(end, len(ids_T))]
    own = [number for number, same in enumerate(first[:end]) if number == same]
    with (
        attention(model, max(length for _, length in rows)),
        noisy(model, data, plan.noise, plan.seed, step, flat=own),
    ):
        hidden_TH = padding_free.states(
            model, ids_T, groups, lambda numbers: bank.rows([slots[n] for n in numbers], wide=True), read_T, first
        )
    return hidden_TH[target_P], hidden_TH[end:]


def _of_few_shapes(output: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`output` on rows padded to a multiple of 64: a CPU compiles a product for every new shape."""
    return lambda hidden_PH: output(F.pad(hidden_PH, (0, 0, 0, -len(hidden_PH) % 64)))[: len(hidden_PH)]


def _unmastered(latest: Tensor, source: Source, plan: Plan) -> set[int]:
    """Examples whose newest loss is not under `mastered`; not those that no step has visited yet."""
    losses = latest.tolist()
    return {i for i in source.to_master if losses[i] >= plan.mastered}


def _record(data: Batch, loss_P: Tensor, weighted_P: Tensor, progress: Progress) -> None:
    slot_P, example_P = data.slot_P.cpu(), data.example_P.cpu()
    loss_P, weighted_P = loss_P.float().cpu(), weighted_P.float().cpu()
    for slot in set(data.slots):
        mine = slot_P == slot
        progress.losses[slot][-1] += float(weighted_P[mine].sum())
        latest = progress.latest[slot]
        latest[example_P[mine].unique()] = 0.0
        latest.scatter_reduce_(0, example_P[mine], loss_P[mine], "amax")


def _finish(bank: AdapterBank, active: Mapping[int, Source], plan: Plan, progress: Progress) -> None:
    """What is finished has values that bfloat16 holds exactly: gates measure what servers read in half the bytes."""
    for slot, source in active.items():
        newest = progress.latest[slot][source.to_master]
        mastered = bool((newest < plan.mastered).all()) and len(newest) > 0  # nan compares false: not visited yet
        mastered = mastered and progress.drift.get(slot, 0.0) < plan.anchored
        if mastered or progress.step >= plan.steps:
            progress.finished[slot] = {name: t.bfloat16().float() for name, t in bank.export(slot).items()}


def _schedule(step: int, plan: Plan) -> float:
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - plan.warmup) / max(1, plan.steps - plan.warmup)))


def _save(file: Path, bank: AdapterBank, optimizer: Muon, progress: Progress) -> None:
    tensors = {f"p/{i}": p.detach() for i, p in enumerate(bank.parameters())}
    tensors |= {f"momentum/{i}": m for i, m in enumerate(optimizer.momenta)}
    for slot, latest in progress.latest.items():
        tensors[f"latest/{slot}"] = latest
    for slot, adapter in progress.finished.items():
        tensors |= {f"finished/{slot}/{name}": t for name, t in adapter.items()}
    state = json.dumps({"step": progress.step, "losses": progress.losses, "drift": progress.drift})
    write_atomic(file, save({k: t.contiguous().cpu() for k, t in tensors.items()}, {"state": state}))


@torch.no_grad()
def _resume(file: Path, bank: AdapterBank, optimizer: Muon, progress: Progress) -> None:
    try:
        with safe_open(file, framework="pt") as handle:
            state = json.loads(handle.metadata()["state"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - the handle itself cannot be iterated
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: checkpoint cannot be read ({error}); delete it to start over") from error
    progress.step = int(state["step"])
    progress.losses = {int(s): list(values) for s, values in state["losses"].items()}
    progress.drift = {int(s): float(value) for s, value in state["drift"].items()}
    for i, p in enumerate(bank.parameters()):
        p.copy_(tensors[f"p/{i}"])
        optimizer.momenta[i].copy_(tensors[f"momentum/{i}"])
    for name, tensor in tensors.items():
        if name.startswith("latest/"):
            progress.latest[int(name.split("/")[1])] = tensor
        elif name.startswith("finished/"):
            _, slot, rest = name.split("/", 2)
            progress.finished.setdefault(int(slot), {})[rest] = tensor
