"""How a bank's students read a step's batch: losses at the targets, and on the way the drift from the base.

In: a model, an `AdapterBank` and a batch. Out: KL(teacher || student) in nats at every target, and of every slot that
reads windows of other text beside it the drift there. Rows lie side by side without padding where the network allows
it. Only target positions go through the LM head.

It does not know optimisers, or which examples a step has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...generate import head
from ...lora import AdapterBank
from ...losses import Tail, chunked_forward_kl
from ...models import Model
from ...trainer import padding_free
from ...trainer.precision import attention
from .anchors import Reference, drifts
from .batches import AdapterBatch
from .noise import noisy


@dataclass(frozen=True)
class Forward:
    """`noise` on embeddings, drawn with `seed`, and what counts of a distribution's `tail`. `reference` has the windows
    of other text."""

    model: Model
    bank: AdapterBank
    reference: Reference
    tail: Tail
    noise: float
    seed: int

    def room(self, data: AdapterBatch, slots: Sequence[int], step: int, tokens: int) -> bool:
        """Whether the windows of all `slots` go through the network beside the rows of `data`, at most `tokens`."""
        if not slots or not padding_free.fits(self.model):
            return False
        return sum(data.lengths) + len(slots) * sum(map(len, self.reference.plan.windows(step))) <= tokens

    def losses(self, data: AdapterBatch, along: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        """Nats at every target, loss_P, and of the slots in `along` the drift from the base, drift_S."""
        if not padding_free.fits(self.model):
            hidden_PH, window_XH = self.padded(data, step), None
        else:
            hidden_PH, window_XH = self._side_by_side(data, along, step)
        loss_P = chunked_forward_kl(hidden_PH, _of_few_shapes(head(self.model)), data.targets, self.tail)
        if window_XH is None or not along:
            return loss_P, loss_P.new_zeros(0)
        return loss_P, drifts(self.model, self.reference, step, window_XH, len(along))

    def padded(self, data: AdapterBatch, step: int) -> Tensor:
        """Last hidden states at the targets, `[P, H]`, of rows as long as the longest."""
        with (
            self.bank.rows(data.slots, wide=self.model.device.type == "cpu"),
            attention(self.model, data.ids_BT.shape[1]),
            noisy(self.model, data, self.noise, self.seed, step),
        ):
            hidden_BTH: Tensor = self.model.network.base_model(
                input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
            ).last_hidden_state
        return hidden_BTH[data.row_P, data.column_P]

    def _side_by_side(self, data: AdapterBatch, along: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        """The same from one forward without padding, and the last hidden states `[X, H]` of the windows of every slot
        in `along`."""
        windows = self.reference.plan.windows(step) if along else []
        groups = [data.lengths, *([[len(ids) for _ in along for ids in windows]] if along else [])]
        rows = [*zip(data.slots, data.lengths, strict=True), *((slot, len(ids)) for slot in along for ids in windows)]
        slots = [slot for slot, length in rows for _ in range(length)]
        extra_X = torch.tensor([token for _ in along for ids in windows for token in ids], device=self.model.device)
        ids_T = torch.cat([data.ids_BT[data.mask_BT.bool()], extra_X.long()])
        end_B = torch.tensor(data.lengths, device=self.model.device).cumsum(0)
        target_P, end = F.pad(end_B, (1, 0))[data.row_P] + data.column_P, int(end_B[-1])
        read_T = (torch.arange(len(ids_T), device=self.model.device) >= end).index_fill(0, target_P, True)
        first = [*data.first, *range(end, len(ids_T))]
        own = [number for number, same in enumerate(first[:end]) if number == same]
        with (
            attention(self.model, max(length for _, length in rows)),
            noisy(self.model, data, self.noise, self.seed, step, flat=own),
        ):
            hidden_TH = padding_free.states(
                self.model,
                ids_T,
                groups,
                lambda numbers: self.bank.rows([slots[n] for n in numbers], wide=True),
                read_T,
                first,
            )
        return hidden_TH[target_P], hidden_TH[end:]


def _of_few_shapes(output: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`output` on rows padded to a multiple of 64: a CPU compiles a product for every new shape."""
    return lambda hidden_PH: output(F.pad(hidden_PH, (0, 0, 0, -len(hidden_PH) % 64)))[: len(hidden_PH)]
