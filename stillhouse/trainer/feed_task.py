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
from ..feeds.epochs import packed
from ..feeds.same_tokens import Feed, FeedBatch
from ..feeds.states import Matching, TracedBatch
from ..generate import head
from ..lora import AdapterBank, LoraConfig
from ..losses import Objective
from ..models import Model
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

    def forward(self, data: FeedBatch, objective: Objective) -> Tensor:
        """Nats, one value per target of the batch. Only target positions go through the LM head."""
        matching = self.matching if isinstance(data, TracedBatch) else None
        watching = watched(self.network, matching.layers, matching.routing > 0) if matching else None
        with watching or nullcontext() as seen:
            hidden_BTH = self.network.base_model(
                input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
            ).last_hidden_state
        loss_P = data.losses(hidden_BTH, head(self.model), objective)
        return loss_P + matching(seen, data) if matching else loss_P


@dataclass(frozen=True)
class SlotFeed:
    """A feed, and the slot of each of its examples (empty: all 0)."""

    feed: Feed
    slots: Sequence[int] = ()

    def of(self, numbers: Sequence[int]) -> list[int]:
        """The slots of these examples."""
        return [self.slots[i] if self.slots else 0 for i in numbers]

    def shares(self, numbers: Sequence[int], slots: int, device: torch.device) -> Tensor:
        """What a target of each slot weighs, so that a slot's losses at the targets of `numbers` sum to their mean."""
        targets_B = torch.tensor([float(self.feed.positions[i]) for i in numbers])
        targets_S = torch.zeros(slots).index_add(0, torch.tensor(self.of(numbers)), targets_B)
        return 1 / targets_S.clamp(min=1).to(device)


@dataclass
class FeedTask(Task):
    """`steps` are numbers of `data`'s examples per micro-batch per step. `held_out` is read for validation, in batches
    of at most `batch_tokens`."""

    learner: Learner
    losses: Losses
    data: SlotFeed
    steps: Sequence[Sequence[Sequence[int]]]
    objective: Objective
    autocast: bool
    held_out: SlotFeed | None = None
    batch_tokens: int = 0

    def gradients(self, step: int, active: Sequence[int], check: Check) -> tuple[Sequence[float], Examples]:
        """The gradients of one step, and every slot's loss per target."""
        learner, data, device = self.learner, self.data, self.learner.model.device
        parts = [[i for i in part if data.of([i])[0] in active] for part in self.steps[step]]
        numbers = [i for part in parts for i in part]
        share_S, total_S = data.shares(numbers, learner.slots, device), torch.zeros(learner.slots, device=device)
        for part in filter(None, parts):
            own = learner.here.part(part)
            with learner.rows(data.of(own or part[:1])):
                loss_S = self._losses(data, own or part[:1], share_S) * bool(own)
                total_S += learner.here.add(loss_S.detach().clone())
                check("loss", total_S.tolist(), by_slot(part, data.of(part), learner.slots))
                learner.backward(loss_S.sum())
        return total_S.tolist(), by_slot(numbers, data.of(numbers), learner.slots)

    @torch.no_grad()
    def validate(self, slots: Sequence[int]) -> Sequence[float]:
        """The loss per target on held-out examples; what a teacher's inner states add is not in it."""
        learner, data = self.learner, self.held_out
        assert data is not None, "a plan that validates has held-out examples"
        numbers = [i for i in range(len(data.feed.lengths)) if data.of([i])[0] in slots]
        share_S = data.shares(numbers, learner.slots, learner.model.device)
        total_S, lengths = torch.zeros_like(share_S), data.feed.lengths
        learner.model.network.eval()
        for part in packed(sorted(numbers, key=lengths.__getitem__), lengths, self.batch_tokens):
            own = learner.here.part(part)
            with learner.rows(data.of(own or part[:1])):
                total_S += learner.here.add(self._losses(data, own or part[:1], share_S) * bool(own))
        learner.model.network.train()
        return [float(total_S[slot]) for slot in slots]

    def _losses(self, data: SlotFeed, numbers: Sequence[int], share_S: Tensor) -> Tensor:
        """Every slot's loss on a micro-batch, each target weighed by its slot's `share_S`, float32."""
        device = self.learner.model.device
        batch = data.feed.batch(numbers, self.learner.model.pad_id, device)
        with torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext():
            loss_P: Tensor = self.losses(batch, self.objective)
        counts = torch.tensor([data.feed.positions[i] for i in numbers], device=device)
        slot_P = torch.tensor(data.of(numbers), device=device).repeat_interleave(counts)
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
    shared = replace(model, network=spread(model.network, model.device, here)) if here.world > 1 else model
    losses, beside = Losses(shared, matching), list(matching.parameters()) if matching else []
    if here.world > 1:
        spread_rest(losses, model.device, here)
    if lora is None:
        parameters = [*shared.network.parameters(), *beside]
        return Learner(shared, parameters, AdamW(parameters, weight_decay), None, here, beside), losses
    bank = AdapterBank(shared.network, slots, lora)
    for parameter in cast(list[Any], bank.parameters()):
        parameter.data = parameter.data.float()  # small updates are lost in bfloat16
    for slot in range(slots):
        bank.reset(slot, seed)
    parameters = [*bank.parameters(), *beside]
    return Learner(shared, parameters, AdamW(parameters, weight_decay), bank, here, beside), losses
