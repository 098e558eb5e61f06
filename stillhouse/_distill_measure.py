"""How near a student is to its teacher on examples it was not trained on.

In: a student, a feed of held-out signals. Out: KL to the teacher, agreement on the first choice, calibration (expected
calibration error and its bins, against the tokens that stand in the text), per target position.

It does not know how the student was trained, and needs no teacher: its signals are the feed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .generate import batches, head
from .lora import AdapterBank
from .losses import Objective, sparse_divergence, through_head
from .models import Model
from .train._aligned import AlignedTokens
from .train._examples import Batch, Feed

BINS = 10
BATCH_TOKENS, CHUNK = 4096, 256


@dataclass(frozen=True)
class Bin:
    """Positions whose confidence falls into one tenth: how sure the student was, and how often right."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Measured:
    """`loss`: the training loss with default settings. `kl` in nats and `agreement` (a fraction) are over the
    `compared` positions where teacher and student have the token in common; calibration is over all `positions`."""

    loss: float
    kl: float
    agreement: float
    ece: float
    bins: tuple[Bin, ...]
    positions: int
    compared: int


@torch.no_grad()
def measure(model: Model, feed: Feed, bank: AdapterBank | None = None) -> Measured:
    """All of it in one pass over the feed."""
    rows_P5, loss, targets = [], 0.0, 0
    for numbers in batches(feed.lengths, BATCH_TOKENS):
        data = feed.batch(numbers, model.tokenizer.pad_token_id or 0, model.device)
        with bank.rows([0] * len(numbers)) if bank else nullcontext():
            hidden_BTH = model.network.base_model(
                input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
            ).last_hidden_state
        loss += float(data.losses(hidden_BTH, head(model), Objective()).sum())
        targets += sum(feed.positions[i] for i in numbers)
        rows_P5.append(_positions(model, data, hidden_BTH, isinstance(feed, AlignedTokens)).cpu().double())
    return _summed(torch.cat(rows_P5), loss / max(targets, 1))


def _positions(model: Model, data: Batch, hidden_BTH: Tensor, ghost: bool) -> Tensor:
    """Per position: KL, compared or not, first choices agree or not, confidence, right or not."""
    row_P, at_P = data.where()
    labels_P, targets = data.ids_BT[row_P, at_P], data.targets
    compared_P = ~targets.logprobs_PK[:, 0].isneginf()

    def part(logits_pV: Tensor, start: int) -> Tensor:
        here = slice(start, start + len(logits_pV))
        logits_pV = logits_pV.float()
        mine = type(targets)(*(t[here] for t in targets))
        kl_p = sparse_divergence(logits_pV, mine, "forward", "ghost" if ghost else "sampled")
        sure_p, choice_p = logits_pV.softmax(-1).max(-1)
        flags = (compared_P[here], choice_p == targets.ids_PK[here, 0], sure_p, choice_p == labels_P[here])
        return torch.stack([kl_p, *(f.float() for f in flags)], -1)

    return through_head(hidden_BTH[row_P, at_P - 1], head(model), part, CHUNK)


def _summed(rows_P5: Tensor, loss: float) -> Measured:
    kl_P, compared_P, agree_P, sure_P, right_P = rows_P5.unbind(-1)
    compared = int(compared_P.sum())
    bins = _bins(sure_P, right_P)
    ece = sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / max(len(sure_P), 1)
    both = compared_P.bool()
    return Measured(
        loss, float(kl_P[both].sum()) / max(compared, 1), float(agree_P[both].sum()) / max(compared, 1), ece,
        tuple(bins), len(sure_P), compared,
    )  # fmt: skip


def _bins(sure_P: Tensor, right_P: Tensor) -> Sequence[Bin]:
    which_P = (sure_P * BINS).long().clamp(max=BINS - 1)
    inside = [which_P == b for b in range(BINS)]
    return [Bin(float(sure_P[i].mean()), float(right_P[i].mean()), int(i.sum())) for i in inside if bool(i.any())]
