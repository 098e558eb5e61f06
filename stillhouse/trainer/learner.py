"""What learns: all weights of a network, or the adapters of a bank on it; on one device or shared out over several.

In: parameters and their optimiser. Out: a `Learner`: gradients, their clipping, and what a checkpoint holds, each
adapter apart from the others. With several processes the network is a copy that is shared out, and `finish` brings what
was learned back to the model.

It does not know examples, losses, schedules or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..lora import AdapterBank
from ..models import Model
from .ranks import Ranks, whole


class Optimizer(Protocol):
    """Moves parameters by their gradients."""

    def step(self, rates: Sequence[float]) -> None:
        """One step in which slot i has the learning rate `rates[i]`; 0 leaves it as it is. Drops the gradients."""

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, named: the optimiser's own tensors, which may be written to."""


@dataclass
class Learner:
    """`parameters` learn, moved by `optimizer`. With a `bank` they are those of its adapters, a slot each; without one
    they are all weights, which are slot 0."""

    model: Model
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    bank: AdapterBank | None = None
    here: Ranks = field(default_factory=Ranks)
    beside: Sequence[nn.Parameter] = ()  # also in `parameters`, and not in the student

    @property
    def slots(self) -> int:
        """How many students these are."""
        return self.bank.slots if self.bank else 1

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

    @contextmanager
    def dropping(self, seed: int) -> Iterator[None]:
        """Inside, adapters drop inputs as their settings say. All that torch draws there depends on `seed` alone."""
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            if self.bank:
                self.bank.training = True
            try:
                yield
            finally:
                if self.bank:
                    self.bank.training = False

    def weights(self, slot: int) -> dict[str, Tensor]:
        """What is learned in `slot`, named: the tensors themselves."""
        if self.bank is None:
            return {f"p/{i}": p.detach() for i, p in enumerate(self.parameters)}
        return {f"p/{i}": p.detach()[slot] for i, p in enumerate(self.bank.parameters())}

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, named: the tensors themselves."""
        return {f"p/{i}": p for i, p in enumerate(self.parameters)} | self.optimizer.tensors()

    @torch.no_grad()
    def finish(self, model: Model) -> AdapterBank | None:
        """What was learned, on `model`; its bank stays attached until `detach`."""
        if self.model is model:
            return self.bank
        model.network.to(device=model.device)  # type: ignore[call-arg]
        if self.bank is None:
            for parameter, shared in zip(model.network.parameters(), self.model.network.parameters(), strict=True):
                parameter.copy_(whole(shared))
            return None
        adapters, about = [self.bank.export(s) for s in range(self.slots)], self.bank.adapter_config(model.ref)
        made = AdapterBank(model.network, self.slots, self.bank.config)
        for slot, tensors in enumerate(adapters):
            made.load(slot, tensors, about)
        return made
