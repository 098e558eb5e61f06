"""Against forgetting: KL(base || student) on running text that has nothing to do with any memory, fresh at every step.

In: tokenised text, an AdapterBank, the step. Out: a loss per slot. The base is the same network without an adapter, so
its distribution is computed on the spot instead of stored: no passage has to come twice, and nothing can be learned by
heart but the base's behaviour. Which windows a step sees is a function of the step alone.

It does not know facts, users or optimisers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import texts
from ..generate import Ids, head
from ..lora import AdapterBank
from ..losses import SparseTargets, Tail, chunked_forward_kl, sparsify
from ..models import Model

PASSAGES = 600
TOP_K, DRAWS = (
    64,
    16,
)  # of the base's distribution, drawn anew at every step: unbiased, and no [tokens, vocabulary] kept


@dataclass(frozen=True)
class Anchors:
    """`rows` windows of at most `tokens` tokens per step, their mean loss weighed by `weight`."""

    passages: tuple[Ids, ...]
    rows: int
    tokens: int
    weight: float
    seed: int

    def windows(self, step: int) -> list[Ids]:
        """The step's windows: passages from their beginning or, every other one, from somewhere inside."""
        rng = random.Random(f"{self.seed}/{step}/anchors")
        found = []
        for number, ids in enumerate(rng.sample(self.passages, min(self.rows, len(self.passages)))):
            start = rng.randrange(max(1, len(ids) - self.tokens)) if number % 2 else 0
            found.append(ids[start : start + self.tokens])
        return found


def anchors(model: Model, rows: int, tokens: int, weight: float, seed: int) -> Anchors:
    """Tokenise the anchor passages (not those that gates measure on)."""
    passages = [model.text_ids(t) for t in texts.anchors(PASSAGES, seed)] if rows else []
    return Anchors(tuple(ids for ids in passages if len(ids) > 8), rows, tokens, weight, seed)


def anchor_loss(model: Model, bank: AdapterBank, slots: Sequence[int], plan: Anchors, step: int, tail: Tail) -> Tensor:
    """Mean KL(base || student) in nats per token, one per slot of `slots`: loss_S."""
    windows = plan.windows(step)
    width = max(map(len, windows))
    pad = model.tokenizer.pad_token_id or 0
    ids_WT = torch.tensor([w + [pad] * (width - len(w)) for w in windows], device=model.device)
    mask_WT = torch.tensor([[1] * len(w) + [0] * (width - len(w)) for w in windows], device=model.device)
    targets = _base(model, ids_WT, mask_WT, step)
    rows = [slot for slot in slots for _ in windows]
    many = len(slots)
    with bank.rows(rows):
        hidden_BTH = model.network.base_model(
            input_ids=ids_WT.repeat(many, 1), attention_mask=mask_WT.repeat(many, 1), use_cache=False
        ).last_hidden_state
    hidden_PH = hidden_BTH[mask_WT.repeat(many, 1).bool()]
    repeated = SparseTargets(*(t.repeat(many, *[1] * (t.dim() - 1)) for t in targets))
    loss_P = chunked_forward_kl(hidden_PH, head(model), repeated, tail)
    return loss_P.view(many, -1).mean(1)


@torch.no_grad()
def _base(model: Model, ids_WT: Tensor, mask_WT: Tensor, step: int) -> SparseTargets:
    """The base's sparse distribution after every token that is not padding."""
    hidden_WTH = model.network.base_model(input_ids=ids_WT, attention_mask=mask_WT, use_cache=False).last_hidden_state
    logprobs_PV = torch.log_softmax(head(model)(hidden_WTH[mask_WT.bool()]).float(), -1)
    generator = torch.Generator(device=logprobs_PV.device).manual_seed(step)
    return sparsify(logprobs_PV, TOP_K, DRAWS, generator)
