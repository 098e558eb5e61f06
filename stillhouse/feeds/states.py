"""A teacher's inner states as something to train on: a feed that brings them along, and the loss on them.

In: a feed of the teacher's own tokens with the traces of its shards; the student. Out: batches with the teacher's
hidden states and choices of experts at every target; a module that adds the distance of the student's own. Where the
widths differ, the student's states go through a projection that is learned with it and thrown away afterwards.

It does not know the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ..capture.prompts.states import LayerOutputs, Traced
from ..errors import InputError
from ..losses import Objective, SparseTargets
from ..losses.states import hidden_distance, routing_divergence
from ..models import Model
from .same_tokens import Head, SameBatch, SameTokens


@dataclass(frozen=True)
class States:
    """The teacher's, at P positions: hidden states by layer `[P, G]`, and distributions over experts."""

    hidden: dict[float, Tensor]
    experts: dict[float, SparseTargets]


class TracedFeed:
    """`SameTokens` with the traces of the same shards."""

    def __init__(self, feed: SameTokens, traces: Sequence[Traced]):
        self.feed, self.layers = feed, traces[0].layers
        self.lengths, self.positions = feed.lengths, feed.positions
        self._hidden_LPG, self._scale_LP, self._experts_LPK, self._logprobs_LPK = (
            np.concatenate([getattr(t, name) for t in traces], 1)
            for name in ("hidden_LPG", "scale_LP", "experts_LPK", "logprobs_LPK")
        )
        self._first_N1 = np.cumsum([0, *feed.positions])
        if self._first_N1[-1] != self._scale_LP.shape[1]:
            raise InputError("traces and signals do not fit together; delete the traces and capture them again")
        self.width, self.routed = self._hidden_LPG.shape[-1], self._experts_LPK.shape[-1] > 0

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> TracedBatch:
        spans = list(pairwise(self._first_N1.tolist()))
        rows = np.concatenate([np.arange(*spans[i]) for i in numbers])
        hidden, experts = {}, {}
        for at, layer in enumerate(self.layers):
            if self.width:
                scale_P1 = self._scale_LP[at, rows, None] / 127
                hidden[layer] = torch.from_numpy(self._hidden_LPG[at, rows] * scale_P1).to(device)
            if self.routed:
                experts[layer] = _sparse(self._experts_LPK[at, rows], self._logprobs_LPK[at, rows], device)
        return TracedBatch(self.feed.batch(numbers, pad, device), States(hidden, experts))


class TracedBatch:
    """A batch, and what went on in the teacher at its targets."""

    def __init__(self, batch: SameBatch, states: States):
        self.batch, self.states = batch, states
        self.ids_BT, self.mask_BT, self.targets = batch.ids_BT, batch.mask_BT, batch.targets

    def where(self) -> tuple[Tensor, Tensor]:
        return self.batch.where()

    def losses(self, hidden_BTH: Tensor, head: Head, objective: Objective) -> Tensor:
        return self.batch.losses(hidden_BTH, head, objective)


class Matching(nn.Module):
    """Weighs the distance of hidden states by `hidden` and of choices of experts by `routing`, means over layers.

    `InputError`: traces without what is to be matched; a student with other experts than the teacher's.
    """

    def __init__(self, model: Model, feed: TracedFeed, hidden: float, routing: float):
        super().__init__()
        self.layers, self.hidden, self.routing = feed.layers, hidden, routing
        if hidden and not feed.width:
            raise InputError("train.hidden: the traces hold no hidden states; set traces.hidden = true")
        if routing and not feed.routed:
            raise InputError("train.routing: the teacher has no routers in these layers, or traces.experts is 0")
        width, wide = int(model.network.config.get_text_config().hidden_size), feed.width if hidden else 0
        self.projections = nn.ModuleList()
        if wide and wide != width:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.projections += [nn.Linear(width, wide, bias=False) for _ in feed.layers]
            self.projections.to(model.device)

    def forward(self, seen: LayerOutputs, data: TracedBatch) -> Tensor:
        """What is added to the loss of every target."""
        row_P, at_P = data.where()
        added_P = torch.zeros(len(row_P), device=row_P.device)
        for number, layer in enumerate(self.layers):
            if self.hidden:
                project = self.projections[number] if len(self.projections) else nn.Identity()
                mine_PH = seen.hidden[layer][row_P, at_P - 1].float()
                added_P = added_P + self.hidden * hidden_distance(mine_PH, data.states.hidden[layer], project)
            if self.routing:
                added_P = added_P + self.routing * self._routing(seen, data, layer, row_P, at_P)
        return added_P / len(self.layers)

    def _routing(self, seen: LayerOutputs, data: TracedBatch, layer: float, row_P: Tensor, at_P: Tensor) -> Tensor:
        if layer not in seen.router:
            raise InputError(f"train.routing: the student has no router at {layer:g} of its depth")
        logits_BTE = seen.router[layer].view(*data.ids_BT.shape, -1)
        return routing_divergence(logits_BTE[row_P, at_P - 1], data.states.experts[layer])


def _sparse(experts_PK: np.typing.NDArray[np.int64], logprobs_PK: np.typing.NDArray[np.float32],
            device: torch.device) -> SparseTargets:  # fmt: skip
    logprobs = torch.from_numpy(logprobs_PK).to(device)
    none = logprobs.new_zeros(len(logprobs), 0)
    tail_P = (1 - logprobs.exp().sum(-1)).clamp(min=0)
    return SparseTargets(torch.from_numpy(experts_PK).to(device), logprobs, tail_P, none.long(), none, none)
