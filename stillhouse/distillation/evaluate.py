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

from ..capture.prompts import Example
from ..compute.threads import fastest_threads
from ..feeds.aligned import AlignedTokens
from ..feeds.same_tokens import Batch, Feed
from ..generate import Sampling, batches, generate, head
from ..lora import AdapterBank
from ..losses import Objective, sparse_divergence, through_head
from ..models import Model

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


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and whether only the limit ended it."""

    text: str
    cut: bool


@dataclass(frozen=True)
class Lengths:
    """Mean length of `n` answers, in characters, of the teacher and of the student before and after; `cut` is the share
    of the student's answers that only the limit ended."""

    teacher: float = 0.0
    before: float = 0.0
    after: float = 0.0
    cut: float = 0.0
    n: int = 0

    @property
    def drift(self) -> float:
        """How much longer than the teacher's its answers are, as a share."""
        return self.after / self.teacher - 1 if self.teacher else 0.0


@dataclass(frozen=True)
class Look:
    """One look at a student: how near it is, and what it answers."""

    measured: Measured
    answers: list[Answer]


def answer(
    model: Model, examples: Sequence[Example], most: int, bank: AdapterBank | None = None, slot: int = 0
) -> list[Answer]:
    """Greedy answers of at most `most` tokens, with the adapter in `slot` of `bank`."""
    if not examples:
        return []
    asked = [model.chat_ids(e.messages) if e.messages else model.text_ids(e.text) for e in examples]
    replies = generate(model, asked, Sampling(most), bank=bank, slots=[slot] * len(asked) if bank else None)
    return [Answer(model.text(ids), len(ids) == most) for ids in replies]


def lengths(teacher: Sequence[Answer], before: Sequence[Answer], after: Sequence[Answer]) -> Lengths:
    """Of answers to the same requests."""
    n = len(teacher)
    if not n:
        return Lengths()
    ours, old, new = (sum(len(a.text) for a in side) / n for side in (teacher, before, after))
    return Lengths(ours, old, new, sum(a.cut for a in after) / n, n)


@torch.no_grad()
def measure(model: Model, feed: Feed, bank: AdapterBank | None = None, slot: int = 0) -> Measured:
    """All of it in one pass over the feed, with the adapter in `slot` of `bank`."""
    rows_P5, loss, targets = [], 0.0, 0
    for numbers in batches(feed.lengths, BATCH_TOKENS):
        data = feed.batch(numbers, model.tokenizer.pad_token_id or 0, model.device)
        with fastest_threads(model), bank.rows([slot] * len(numbers)) if bank else nullcontext():
            hidden_BTH = model.network.base_model(
                input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
            ).last_hidden_state
        drawn = bool(data.targets.draw_weights_PD.any())  # an endpoint tells the mass of a tail alone
        objective = Objective(tail="sampled" if drawn else "ghost")
        loss += float(data.losses(hidden_BTH, head(model), objective).sum())
        targets += sum(feed.positions[i] for i in numbers)
        rows_P5.append(_positions(model, data, hidden_BTH, isinstance(feed, AlignedTokens) or not drawn).cpu().double())
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
