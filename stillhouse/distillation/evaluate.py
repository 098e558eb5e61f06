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
from ..feeds.same_tokens import Feed, FeedBatch
from ..generate import Sampling, batches, generate, head
from ..lora import AdapterBank
from ..losses import Objective, sparse_divergence, through_head
from ..models import Model
from ..teachers.examples import rendered

BINS = 10
BATCH_TOKENS, CHUNK = 4096, 256


@dataclass(frozen=True)
class Bin:
    """The positions whose confidence falls into one tenth."""

    confidence: float
    """How sure the student was of its first choice, in the mean."""
    accuracy: float
    """How often its first choice was right."""
    n: int
    """How many positions there are."""


@dataclass(frozen=True)
class Metrics:
    """How near a student is to its teacher. KL and agreement are over the `compared` positions where both have the
    token in common; calibration is over all `positions`."""

    loss: float
    """The training loss with default settings, in nats per target."""
    kl: float
    """From the teacher, in nats per position."""
    agreement: float
    """The share of positions with the same first choice."""
    ece: float
    """Expected calibration error, 0 to 1."""
    bins: tuple[Bin, ...]
    positions: int
    compared: int


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    cut: bool
    """Whether only the limit ended it."""


@dataclass(frozen=True)
class Lengths:
    """Mean lengths of answers to the same requests, in characters."""

    teacher: float = 0.0
    before: float = 0.0
    """Of the student before its training."""
    after: float = 0.0
    """Of the student after its training."""
    cut: float = 0.0
    """The share of the student's answers, after its training, that only the limit ended."""
    n: int = 0
    """How many answers there are of each."""


@dataclass(frozen=True)
class Evaluation:
    """A student at one moment: how near it is to its teacher, and what it answers."""

    metrics: Metrics
    answers: list[Answer]


def answer(
    model: Model, requests: Sequence[Example], limit: int, bank: AdapterBank | None = None, slot: int = 0
) -> list[Answer]:
    """Greedy answers of at most `limit` tokens, with the adapter in `slot` of `bank`."""
    if not requests:
        return []
    prompts = [prompt_ids(model, request) for request in requests]
    outputs = generate(model, prompts, Sampling(limit), bank=bank, slots=[slot] * len(prompts) if bank else None)
    return [Answer(model.text(ids), len(ids) == limit) for ids in outputs]


def prompt_ids(model: Model, request: Example) -> list[int]:
    """What a student reads of a request."""
    return rendered(model, request, "")


def lengths(teacher: Sequence[Answer], before: Sequence[Answer], after: Sequence[Answer]) -> Lengths:
    """The lengths of answers to the same requests; zeros where there are none."""
    n = len(teacher)
    if not n:
        return Lengths()
    sides = (teacher, before, after)
    of_teacher, of_before, of_after = (sum(len(answer.text) for answer in side) / n for side in sides)
    return Lengths(of_teacher, of_before, of_after, sum(answer.cut for answer in after) / n, n)


@torch.no_grad()
def measure(model: Model, feed: Feed, bank: AdapterBank | None = None, slot: int = 0) -> Metrics:
    """One pass over a feed of held-out signals, with the adapter in `slot` of `bank`."""
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


def _positions(model: Model, data: FeedBatch, hidden_BTH: Tensor, ghost: bool) -> Tensor:
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


def _summed(rows_P5: Tensor, loss: float) -> Metrics:
    kl_P, compared_P, agree_P, sure_P, right_P = rows_P5.unbind(-1)
    compared, both = int(compared_P.sum()), compared_P.bool()
    bins, ece = calibration(sure_P, right_P)
    return Metrics(
        loss, float(kl_P[both].sum()) / max(compared, 1), float(agree_P[both].sum()) / max(compared, 1), ece, bins,
        len(sure_P), compared,
    )  # fmt: skip


def calibration(sure_N: Tensor, right_N: Tensor) -> tuple[tuple[Bin, ...], float]:
    """Tenths of the confidence with what is in them, and the expected calibration error (Guo et al. 2017).

    `sure_N` are confidences from 0 to 1, `right_N` is 1 where the choice was right.
    """
    bin_N = (sure_N * BINS).long().clamp(max=BINS - 1)
    inside = [bin_N == b for b in range(BINS)]
    bins = tuple(Bin(float(sure_N[i].mean()), float(right_N[i].mean()), int(i.sum())) for i in inside if bool(i.any()))
    return bins, sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / max(len(sure_N), 1)
