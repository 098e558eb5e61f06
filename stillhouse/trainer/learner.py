"""What learns: all weights of a network, or the adapters of a bank on it; on one device or shared out over several.

In: a model, the settings of its LoRA, how many adapters. Out: a `Learner`: losses of a batch, gradients, their clipping
and the step, each adapter apart from the others. With several processes the network is a copy that is shared out, and
`finish` brings what was learned back to the model.

It does not know examples, schedules or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..capture.prompts.states import watched
from ..feeds.same_tokens import Batch
from ..feeds.states import Matching
from ..generate import head
from ..lora import AdapterBank, LoraConfig
from ..losses import Objective
from ..models import Model
from .ranks import Ranks, spread, spread_rest, whole


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
class Learner:
    """`parameters` learn; with a `bank` they are those of `slots` adapters, else all weights, which are slot 0."""

    model: Model
    losses: nn.Module
    parameters: list[nn.Parameter]
    bank: AdapterBank | None
    slots: int
    here: Ranks
    beside: list[nn.Parameter] = field(default_factory=list)  # also in `parameters`, and not in the student

    def rows(self, slots: Sequence[int]) -> AbstractContextManager[None]:
        """Entered around a batch whose row i belongs to `slots[i]`."""
        return self.bank.rows(slots, wide=self.model.device.type == "cpu") if self.bank else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the sum of all processes' losses."""
        averaged = self.bank is None and self.here.world > 1
        (loss * self.here.world if averaged else loss).backward()

    @torch.no_grad()
    def clip(self, most: float) -> list[float]:
        """Each slot's gradient to a norm of `most`, once it is summed over processes. Returns the norms before."""
        if self.bank is None:
            return [float(whole(nn.utils.clip_grad_norm_(self.parameters, most)))]
        nn.utils.clip_grad_norm_(self.beside, most)
        for p in self.bank.parameters():
            if self.here.world > 1:
                p.grad = self.here.add(torch.zeros_like(p) if p.grad is None else p.grad)
        return [float(n) for n in self.bank.clip_per_slot(most)]

    @torch.no_grad()
    def advance(self, optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
        """One step in which slot i has the learning rate `rates[i]`; 0 leaves it as it is."""
        most = max(rates)
        for group in optimizer.param_groups:
            group["lr"] = most
        before = [p.detach().clone() for p in self.parameters] if min(rates) < most else []
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for p, old in zip(self.parameters, before, strict=False):
            share_S = torch.tensor([r / most for r in rates], device=p.device, dtype=p.dtype)
            p.copy_(torch.lerp(old, p, share_S.view(-1, *[1] * (p.dim() - 1))))

    @torch.no_grad()
    def finish(self, model: Model) -> AdapterBank | None:
        """What was learned, on `model`; its bank stays attached until `detach`."""
        if self.model is model:
            return self.bank
        model.network.to(device=model.device)  # type: ignore[call-arg]
        if self.bank is None:
            for mine, shared in zip(model.network.parameters(), self.model.network.parameters(), strict=True):
                mine.copy_(whole(shared))
            return None
        adapters, about = [self.bank.export(s) for s in range(self.slots)], self.bank.adapter_config(model.ref)
        made = AdapterBank(model.network, self.slots, self.bank.config)
        for slot, tensors in enumerate(adapters):
            made.load(slot, tensors, about)
        return made


def learner(
    model: Model, lora: LoraConfig | None, slots: int, seed: int, here: Ranks, matching: Matching | None = None
) -> Learner:
    """All of `model` in float32, or new adapters on it, and the projections of `matching`. With several processes on a
    copy that is shared out."""
    if lora is None:
        model.network.float()
        model.network.requires_grad_(True)
    mine = replace(model, network=spread(model.network, model.device, here)) if here.world > 1 else model
    losses, beside = Losses(mine, matching), list(matching.parameters()) if matching else []
    if here.world > 1:
        spread_rest(losses, model.device, here)
    if lora is None:
        return Learner(mine, losses, [*mine.network.parameters(), *beside], None, 1, here, beside)
    bank = AdapterBank(mine.network, slots, lora)
    for parameter in cast(list[Any], bank.parameters()):
        parameter.data = parameter.data.float()  # small updates are lost in bfloat16
    for slot in range(slots):
        bank.reset(slot, seed)
    return Learner(mine, losses, [*bank.parameters(), *beside], bank, slots, here, beside)
