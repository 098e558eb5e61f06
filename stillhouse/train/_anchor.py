"""Against forgetting: KL(base || student) on running text that has nothing to do with any memory, fresh at every step.

In: tokenised text, an AdapterBank, the step. Out: a loss per slot. The base is the same network without an adapter, so
its distribution is computed on the spot, and whole, instead of stored: no passage has to come twice, and nothing can be
learned by heart but the base's behaviour. Which windows a step sees is a function of the step alone.

It does not know facts, users or optimisers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import texts
from ..generate import Ids, head, pad_right
from ..lora import AdapterBank
from ..losses import dense_forward_kl
from ..models import Model
from ._precision import attention

PASSAGES = 600
BASE = -1  # the slot that is no adapter
CHUNK = 256  # positions whose logits, of the whole vocabulary, are there at once


@dataclass(frozen=True)
class Anchors:
    """`rows` windows of at most `tokens` tokens every `every` steps, their mean loss weighed by `weight`."""

    passages: tuple[Ids, ...]
    rows: int
    tokens: int
    weight: float
    every: int
    seed: int

    def due(self, step: int) -> bool:
        """Whether this step looks at them."""
        return bool(self.passages) and step % self.every == self.every - 1

    def windows(self, step: int) -> list[Ids]:
        """The step's windows: passages from their beginning or, every other one, from somewhere inside."""
        rng = random.Random(f"{self.seed}/{step}/anchors")
        found = []
        for number, ids in enumerate(rng.sample(self.passages, min(self.rows, len(self.passages)))):
            start = rng.randrange(max(1, len(ids) - self.tokens)) if number % 2 else 0
            found.append(ids[start : start + self.tokens])
        return found


def anchors(model: Model, rows: int, tokens: int, weight: float, every: int, seed: int) -> Anchors:
    """Tokenise the anchor passages (not those that gates measure on)."""
    passages = [model.text_ids(t) for t in texts.anchors(PASSAGES, seed)] if rows else []
    return Anchors(tuple(ids for ids in passages if len(ids) > 8), rows, tokens, weight, every, seed)


def anchor_loss(model: Model, bank: AdapterBank, slots: Sequence[int], plan: Anchors, step: int) -> Tensor:
    """Mean KL(base || student) in nats per token, one per slot of `slots`: loss_S."""
    ids_WT, mask_WT = pad_right(plan.windows(step), model)
    many, windows = len(slots), len(ids_WT)
    ids_BT, mask_BT = ids_WT.repeat(many + 1, 1), mask_WT.repeat(many + 1, 1)
    with (
        bank.rows([slot for slot in [BASE, *slots] for _ in range(windows)], wide=model.device.type == "cpu"),
        attention(model, ids_BT.shape[1]),
    ):
        hidden_BTH = model.network.base_model(
            input_ids=ids_BT, attention_mask=mask_BT, use_cache=False
        ).last_hidden_state
    base_PH = hidden_BTH[:windows][mask_WT.bool()].detach().repeat(many, 1)
    return _divergence(model, base_PH, hidden_BTH[windows:][mask_BT[windows:].bool()]).view(many, -1).mean(1)


def _divergence(model: Model, base_PH: Tensor, student_PH: Tensor) -> Tensor:
    """KL(base || student) in nats, `[P]`, over the whole vocabulary; a chunk's logits are made again for gradients."""

    def part(base_pH: Tensor, student_pH: Tensor) -> Tensor:
        with torch.no_grad():
            base_pV = head(model)(base_pH).float().log_softmax(-1)
        return dense_forward_kl(head(model)(student_pH), base_pV)

    chunks = zip(base_PH.split(CHUNK), student_PH.split(CHUNK), strict=True)
    return torch.cat([checkpoint(part, *c, use_reentrant=False, preserve_rng_state=False) for c in chunks])
