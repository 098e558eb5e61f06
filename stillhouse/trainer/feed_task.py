"""A student that learns from a feed: the losses and gradients of every step, micro-batch by micro-batch.

In: a `Learner`, a feed and the steps' example numbers. Out: a `Task` for `loop.py`; losses are in nats per target. A
step's loss is the sum over all its micro-batches divided by all their targets, once: how a batch is cut, and over how
many processes, changes nothing. Several adapters train in the same batches, each on its own targets: each becomes what
it would become alone.

It does not know where examples come from, or schedules and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..capture.prompts.states import watched
from ..feeds.same_tokens import Batch, Feed
from ..feeds.states import Matching
from ..generate import head
from ..lora import AdapterBank, LoraConfig
from ..losses import Objective
from ..models import Model
from ..seeds import seed_of
from .adamw import AdamW
from .learner import Learner
from .loop import Check, Examples, Task, by_slot
from .ranks import Ranks, spread, spread_rest


class Losses(nn.Module):
    """A network and its head as one module, so that weights shared out over processes are there for both."""

    def __init__(self, model: Model, matching: Matching | None = None):
        super().__init__()
        self.network = model.network
        self.model = model
        self.matching = matching

    def forward(self, data: Batch, objective: Objective) -> Tensor:
        """Nats, one value per target of the batch. Only target positions go through the LM head."""
        watching = watched(self.network, self.matching.layers, self.matching.routing > 0) if self.matching else None
        with watching or nullcontext() as seen:
            hidden_BTH = self.network.base_model(
                input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
            ).last_hidden_state
        loss_P = data.losses(hidden_BTH, head(self.model), objective)
        return loss_P + self.matching(seen, data) if self.matching else loss_P


@dataclass
class FeedTask(Task):
    """`steps` are example numbers per micro-batch per step, `slots` is the adapter of every example (empty: all 0)."""

    learner: Learner
    losses: Losses
    feed: Feed
    steps: Sequence[Sequence[Sequence[int]]]
    objective: Objective
    autocast: bool
    seed: int
    slots: Sequence[int] = ()

    def of(self, numbers: Sequence[int]) -> list[int]:
        """The slots of these examples."""
        return [self.slots[i] if self.slots else 0 for i in numbers]

    def gradients(self, step: int, active: Sequence[int], check: Check) -> tuple[Sequence[float], Examples]:
        """The gradients of one step, and every slot's loss per target."""
        learner, device = self.learner, self.learner.model.device
        parts = [
            [i for i, slot in zip(part, self.of(part), strict=True) if slot in active] for part in self.steps[step]
        ]
        parts = [part for part in parts if part]
        numbers = [i for part in parts for i in part]
        targets_S, total_S = torch.zeros(learner.slots), torch.zeros(learner.slots, device=device)
        counts_B = torch.tensor([float(self.feed.positions[i]) for i in numbers])
        targets_S.index_add_(0, torch.tensor(self.of(numbers)), counts_B)
        share_S = 1 / targets_S.clamp(min=1).to(device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for number, part in enumerate(parts):
                torch.manual_seed(seed_of("dropout", self.seed, step, number))
                mine = learner.here.mine(part)
                with learner.rows(self.of(mine or part[:1])):
                    loss_S = self._losses(mine or part[:1], share_S) * bool(mine)
                    total_S += learner.here.add(loss_S.detach().clone())
                    check("loss", total_S.tolist(), by_slot(part, self.of(part), learner.slots))
                    learner.backward(loss_S.sum())
        return total_S.tolist(), by_slot(numbers, self.of(numbers), learner.slots)

    def _losses(self, numbers: Sequence[int], share_S: Tensor) -> Tensor:
        """Every slot's loss on a micro-batch, each target weighed by its slot's `share_S`, float32."""
        device = self.learner.model.device
        data = self.feed.batch(numbers, self.learner.model.pad_id, device)
        with torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext():
            loss_P: Tensor = self.losses(data, self.objective)
        counts = torch.tensor([self.feed.positions[i] for i in numbers], device=device)
        slot_P = torch.tensor(self.of(numbers), device=device).repeat_interleave(counts)
        return loss_P.new_zeros(self.learner.slots).index_add(0, slot_P, loss_P * share_S[slot_P])


def prepare(
    model: Model, lora: LoraConfig | None, slots: int, seed: int, weight_decay: float, here: Ranks,
    matching: Matching | None = None,
) -> tuple[Learner, Losses]:  # fmt: skip
    """What learns from a feed, and its losses: all of `model` in float32, or new adapters on it, and the projections of
    `matching`. With several processes it is a copy that is shared out."""
    if lora is None:
        model.network.float()
        model.network.requires_grad_(True)
    mine = replace(model, network=spread(model.network, model.device, here)) if here.world > 1 else model
    losses, beside = Losses(mine, matching), list(matching.parameters()) if matching else []
    if here.world > 1:
        spread_rest(losses, model.device, here)
    if lora is None:
        parameters = [*mine.network.parameters(), *beside]
        return Learner(mine, parameters, AdamW(parameters, weight_decay), None, here, beside), losses
    bank = AdapterBank(mine.network, slots, lora)
    for parameter in cast(list[Any], bank.parameters()):
        parameter.data = parameter.data.float()  # small updates are lost in bfloat16
    for slot in range(slots):
        bank.reset(slot, seed)
    parameters = [*bank.parameters(), *beside]
    return Learner(mine, parameters, AdamW(parameters, weight_decay), bank, here, beside), losses
