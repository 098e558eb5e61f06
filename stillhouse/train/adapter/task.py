"""Users' adapters as the training loop's task: which examples a step reads, and who has mastered everything.

In: a learner with a bank, and one `ExampleSource` per slot. Out: gradients and losses of a step, by slot. A slot has
mastered everything when the newest loss of each of its examples is under `mastered` and its drift from the base on
other text is under `anchored`. It leaves the batch then, so users trained together get what each would get alone.

It does not know what the examples mean, or schedules and files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...trainer.learner import Learner
from ...trainer.loop import Check, Examples, Task, by_slot
from .anchors import anchor_loss
from .batches import AdapterBatch, ExampleSource, batches
from .curvature import Curvature, curvature
from .forward import Forward
from .settings import Config

OfDrift = Callable[[str, Sequence[float]], None]
DRIFT_WINDOW = 0.1  # of a running mean over anchors, per step


class AdapterTask(Task):
    """Trains the slots of a bank, slot i on `sources[i]`. `config` is resolved. Validation is on `held_out[i]`, each
    of whose steps has all its examples."""

    def __init__(
        self, learner: Learner, forward: Forward, sources: Sequence[ExampleSource], config: Config,
        held_out: Sequence[ExampleSource] = (),
    ) -> None:  # fmt: skip
        self.learner, self.forward, self.sources, self.config = learner, forward, sources, config
        self.held_out = held_out
        self.anchors = forward.reference.plan
        self.latest = [torch.full((len(source.artifacts),), math.nan) for source in sources]
        """Every slot's newest loss per example; nan before the first visit."""
        self.drift_S = torch.full((len(sources),), math.nan, dtype=torch.float64)
        """Every slot's KL from the base on other text, nats per token; nan until it is measured."""
        self.form: Curvature | None = None

    def gradients(self, step: int, active: Sequence[int], check: Check) -> tuple[Sequence[float], Examples]:
        """Of the examples, of the windows of other text where they are due, and of the curvature."""
        model, slots = self.forward.model, len(self.sources)
        hard = {slot: self._unmastered(slot) for slot in active}
        anchored = list(active) if self.anchors.due(step) else []  # who has still to be held to the base
        losses, read = [0.0] * slots, by_slot([], [], slots)
        sources, tokens = {slot: self.sources[slot] for slot in active}, self.config.batch_tokens
        for data in batches(sources, step, model.pad_id, model.device, hard, tokens):
            beside = anchored if self.forward.room(data, anchored, step, tokens) else []
            loss_P, drift_S = self.forward.losses(data, beside, step)
            weighted_P = loss_P * data.weight_P
            self._record(data, loss_P.detach(), weighted_P.detach(), losses)
            examples = by_slot(data.examples, data.slots, slots)
            check("loss", losses, examples)
            read = [before + own for before, own in zip(read, examples, strict=True)]
            self._backward(weighted_P.sum(), beside, drift_S, step, partial(check, examples=examples))
            anchored = [] if beside else anchored
        each = max(1, tokens // max(1, self.anchors.rows * self.anchors.tokens))
        for some in (anchored[start : start + each] for start in range(0, len(anchored), each)):
            drift_S = anchor_loss(model, self.forward.bank, some, self.forward.reference, step)
            self._backward(0.0, some, drift_S, step, partial(check, examples=read))
        self._pull(step, active)
        return losses, read

    @torch.no_grad()
    def validate(self, slots: Sequence[int]) -> Sequence[float]:
        """The loss on each user's held-out examples, kinds weighed as in training."""
        model, forward = self.forward.model, replace(self.forward, noise=0.0)
        losses, sources = dict.fromkeys(slots, 0.0), {slot: self.held_out[slot] for slot in slots}
        for data in batches(sources, 0, model.pad_id, model.device, tokens=self.config.batch_tokens):
            loss_P, _ = forward.losses(data, [], 0)
            for slot in set(data.slots):
                losses[slot] += float((loss_P * data.weight_P)[data.slot_P == slot].sum())
        return list(losses.values())

    def mastered(self, active: Sequence[int]) -> Sequence[int]:
        """Slots whose examples are all mastered while they are near enough to the base."""
        return [slot for slot in active if self._mastered(slot)]

    def tensors(self) -> dict[str, Tensor]:
        """The newest losses and the drift."""
        return {f"latest/{slot}": losses for slot, losses in enumerate(self.latest)} | {"drift": self.drift_S}

    def _late(self, step: int) -> float:
        """How much drift from the base weighs: facts are learned first, then what they disturbed is put back."""
        return (step + 1) / self.config.steps

    def _backward(self, loss: Tensor | float, slots: list[int], drift_S: Tensor, step: int, check: OfDrift) -> None:
        measured_S = torch.zeros_like(self.drift_S)
        measured_S[slots] = drift_S.detach().double().cpu()
        check("drift from the base", measured_S.tolist())
        before_S = self.drift_S.where(~self.drift_S.isnan(), measured_S)
        self.drift_S[slots] = (before_S + DRIFT_WINDOW * self.anchors.every * (measured_S - before_S))[slots]
        (loss + self.anchors.weight * self._late(step) * drift_S.sum()).backward()

    def _pull(self, step: int, active: Sequence[int]) -> None:
        """The gradient that the base's curvature foretells. The first step reads the curvature."""
        if not self.config.curvature_weight:
            return
        if self.form is None:
            forward, config = self.forward, self.config
            self.form = curvature(forward.model, forward.bank, config.curvature_tokens, config.seed)
        drift_S = self.form.pull(self.config.curvature_weight * self._late(step))
        if not self.anchors.passages:
            self.drift_S[active] = drift_S[active].double().cpu()

    def _record(self, data: AdapterBatch, loss_P: Tensor, weighted_P: Tensor, losses: list[float]) -> None:
        slot_P, example_P = data.slot_P.cpu(), data.example_P.cpu()
        loss_P, weighted_P = loss_P.float().cpu(), weighted_P.float().cpu()
        for slot in set(data.slots):
            mine = slot_P == slot
            losses[slot] += float(weighted_P[mine].sum())
            self.latest[slot][example_P[mine].unique()] = 0.0
            self.latest[slot].scatter_reduce_(0, example_P[mine], loss_P[mine], "amax")

    def _unmastered(self, slot: int) -> set[int]:
        """Examples whose newest loss is not under `mastered`; not those that no step has visited yet."""
        losses = self.latest[slot].tolist()
        return {i for i in self.sources[slot].to_master if losses[i] >= self.config.mastered}

    def _mastered(self, slot: int) -> bool:
        newest = self.latest[slot][self.sources[slot].to_master]
        every = bool((newest < self.config.mastered).all()) and len(newest) > 0  # nan compares false: not visited yet
        return every and float(self.drift_S[slot].nan_to_num()) < self.config.anchored
