"""Divergences of a student from a teacher's sparse distribution, and the dense twins tests hold them to.

In: student logits (or the hidden states and the LM head that make them) at P target positions, and for each the
teacher's exact top-k log-probabilities, the mass of the rest, and a few draws from it. Out: nats per position, `[P]`,
float32 or better; weighting and averaging are the caller's.

Top-k alone is a biased target that teaches overconfidence; a few importance-weighted draws make the gradient unbiased
(Anshumann et al. 2025, Sparse Logit Sampling, "RS-KD", arXiv 2503.16870, there for draws over the whole vocabulary;
here the top-k is exact and only the tail is drawn). Forward and reverse KL and the generalised Jensen-Shannon
divergence are those of Agarwal et al. 2023 (GKD, arXiv 2306.13649); `T^2 * KL` beside cross-entropy is Hinton et al.
2015. It does not know models, tokenizers, files or users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import InputError
from .head import dense_kl, logprobs_at, precise, through_head
from .terms import Divergence, pointwise, tempered

__all__ = [
    "Divergence", "Objective", "SparseTargets", "Tail", "chunked", "chunked_forward_kl", "dense_forward_kl",
    "distillation_loss", "sparse_divergence", "sparse_forward_kl", "through_head",
]  # fmt: skip

CONTROL = 0.3  # of a tail's mass; measured: 0.5 gains nothing
Tail = Literal["steadied", "sampled", "ghost", "renormalise", "drop"]


class SparseTargets(NamedTuple):
    """A teacher's distribution at P positions; all log-probabilities are of the full vocabulary.

    Rows with fewer than K entries are padded with id 0 and log-probability -inf, after the real ones. Unused draws
    have weight 0. D may be 0.
    """

    ids_PK: Tensor  # int64
    logprobs_PK: Tensor  # float32
    tail_P: Tensor  # float32: probability mass outside the K entries
    draw_ids_PD: Tensor  # int64
    draw_logprobs_PD: Tensor  # float32: the teacher's own log-probability of the drawn id
    draw_weights_PD: Tensor  # float32: importance weights; they sum to tail_P over D


@dataclass(frozen=True)
class Objective:
    """What a student minimises: `alpha * T^2 * divergence + (1 - alpha) * cross-entropy`, per position."""

    divergence: Divergence = "forward"
    """Which one: of the teacher from the student, the other way round, or the generalised Jensen-Shannon divergence."""
    tail: Tail = "steadied"
    """What the teacher's tail counts for, as in `sparse_divergence`."""
    temperature: float = 1.0
    """T, more than 0. Above 1 the draws are weighed anew by the teacher's tempered probabilities, which is exact where
    the K entries hold all mass."""
    alpha: float = 1.0
    """The teacher's share: 0 is cross-entropy alone, 1 the teacher alone."""
    beta: float = 0.5
    """The teacher's share in the mixture of "jsd", between 0 and 1."""
    hard: float = 0.0
    """A position weighs `1 + hard * gap`. `gap` (0 to 1) is how far the student's probability of the teacher's first
    choice falls short of the teacher's own, so what the student has mastered counts less. At least 0; 0: all alike."""

    def __post_init__(self) -> None:
        for name, allowed in (("divergence", get_args(Divergence)), ("tail", get_args(Tail))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}: {getattr(self, name)!r} is not allowed; there are {', '.join(allowed)}")
        if not self.temperature > 0:
            raise InputError(f"temperature: {self.temperature} is not allowed; it must be more than 0")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha: {self.alpha} is not allowed; 0 is cross-entropy alone, 1 the teacher alone")
        if not 0 < self.beta < 1:
            raise InputError(
                f"beta: {self.beta} is not allowed; it lies between 0 and 1; the ends are 'forward', 'reverse'"
            )
        if self.hard < 0:
            raise InputError(f"hard: {self.hard} is not allowed; it must be at least 0")


def sparse_forward_kl(logits_PV: Tensor, targets: SparseTargets, tail: Tail = "sampled") -> Tensor:
    """`sparse_divergence` with the forward KL: KL(teacher || student) in nats per position, `[P]`."""
    return sparse_divergence(logits_PV, targets, "forward", tail)


def sparse_divergence(
    logits_PV: Tensor,
    targets: SparseTargets,
    divergence: Divergence = "forward",
    tail: Tail = "sampled",
    beta: float = 0.5,
) -> Tensor:
    """A divergence between teacher and student in nats per position, `[P]`; what the tail counts for is `tail`:

    - "sampled": its draws, by importance weight. Unbiased in value and gradient (arXiv 2503.16870); the reverse KL and
      JSD have more variance, since the student may be much surer of a draw than the teacher. A tail without draws
      counts as dropped.
    - "steadied": of the value of "sampled"; the gradient of the forward KL has a control variate, the student's own
      tail. What the student knows already then adds less noise, and what it does not know is still learned from draws.
      Right on average but where the student gives a draw more than three times its due.
    - "ghost": one more token, whose mass in the student is all that the student gives outside the K entries. A lower
      bound of the dense divergence.
    - "renormalise": the K entries are scaled to sum to one, the tail is ignored. Teaches overconfidence.
    - "drop": left out; the K terms of the dense sum, which can be negative for the forward KL.

    With K = V all five are the dense divergence. The terms of the reverse KL are `q log(q/p) - q + p`: they sum to the
    same over a vocabulary, and alone they do not reward moving mass to where the teacher was not kept.
    `InputError` when a target id is outside the student's vocabulary.
    """
    _check_ids(targets, logits_PV.shape[-1])
    if not logits_PV.shape[0]:
        return logits_PV.sum(-1)
    drawn = tail in ("steadied", "sampled") and targets.draw_ids_PD.shape[-1] > 0
    ids_PJ = torch.cat([targets.ids_PK, targets.draw_ids_PD], -1) if drawn else targets.ids_PK
    student_PJ, normaliser_P = logprobs_at(logits_PV, ids_PJ)
    student_PK = student_PJ[:, : targets.ids_PK.shape[-1]]
    logprobs_PK = targets.logprobs_PK.to(student_PK.dtype)
    if tail == "renormalise":
        logprobs_PK = logprobs_PK - logprobs_PK.logsumexp(-1, keepdim=True)
    loss_P = pointwise(divergence, logprobs_PK, logprobs_PK, student_PK, beta).sum(-1)
    if drawn:
        student_PD = student_PJ[:, targets.ids_PK.shape[-1] :]
        weights_PD = targets.draw_weights_PD.to(student_PD.dtype).log()
        loss_P = loss_P + pointwise(divergence, weights_PD, targets.draw_logprobs_PD, student_PD, beta).sum(-1)
        if tail == "steadied" and divergence == "forward":
            loss_P = loss_P + _control(targets, student_PK, student_PD)
    if tail == "ghost" and targets.ids_PK.shape[-1] < logits_PV.shape[-1]:
        mass_P = targets.tail_P.to(student_PK.dtype).clamp(min=0).log()
        rest_P = _mass_outside(precise(logits_PV), targets) - normaliser_P
        loss_P = loss_P + pointwise(divergence, mass_P, mass_P, rest_P, beta)
    return loss_P


def distillation_loss(
    logits_PV: Tensor, targets: SparseTargets, labels_P: Tensor, objective: Objective = Objective()
) -> Tensor:
    """`objective` at P positions, `[P]`, in nats. labels_P: ids that stand there, for the cross-entropy."""
    temperature = objective.temperature
    if not len(logits_PV):
        return logits_PV.sum(-1)
    loss_P = torch.zeros((), device=logits_PV.device)
    if objective.alpha:
        at_T = targets if temperature == 1 else SparseTargets(*tempered(*targets, temperature))
        cooled_PV = logits_PV if temperature == 1 else precise(logits_PV) / temperature
        divergence_P = sparse_divergence(cooled_PV, at_T, objective.divergence, objective.tail, objective.beta)
        loss_P = loss_P + objective.alpha * temperature**2 * divergence_P
    if objective.alpha < 1:
        logprob_P1, _ = logprobs_at(logits_PV, labels_P[:, None])
        loss_P = loss_P - (1 - objective.alpha) * logprob_P1[:, 0]
    return loss_P * _hardness(logits_PV, targets, objective.hard) if objective.hard else loss_P


def chunked(
    hidden_PH: Tensor,
    head: Callable[[Tensor], Tensor],
    targets: SparseTargets,
    labels_P: Tensor,
    objective: Objective = Objective(),
    chunk: int = 256,
) -> Tensor:
    """`distillation_loss(head(hidden_PH), …)`, at most `chunk` positions through `head` at a time.

    Under gradients each chunk's logits are computed again in the backward pass instead of kept, so memory is
    `chunk * V` whatever P is. `head` maps `[p, H]` to `[p, V]`, soft-capping included.
    """

    def part(logits_pV: Tensor, start: int) -> Tensor:
        here = slice(start, start + len(logits_pV))
        return distillation_loss(logits_pV, SparseTargets(*(t[here] for t in targets)), labels_P[here], objective)

    return through_head(hidden_PH, head, part, chunk)


def chunked_forward_kl(
    hidden_PH: Tensor,
    head: Callable[[Tensor], Tensor],
    targets: SparseTargets,
    tail: Tail = "sampled",
    chunk: int = 512,
) -> Tensor:
    """`sparse_forward_kl(head(hidden_PH), targets, tail)`, chunk by chunk as in `chunked`."""

    def part(logits_pV: Tensor, start: int) -> Tensor:
        here = slice(start, start + len(logits_pV))
        return sparse_forward_kl(logits_pV, SparseTargets(*(t[here] for t in targets)), tail)

    return through_head(hidden_PH, head, part, chunk)


def dense_forward_kl(logits_PV: Tensor, teacher_logprobs_PV: Tensor) -> Tensor:
    """KL(teacher || student) in nats per position, `[P]`, over the whole vocabulary. The teacher gets no gradient."""
    return dense_kl(logits_PV, teacher_logprobs_PV)


def _control(targets: SparseTargets, student_PK: Tensor, student_PD: Tensor) -> Tensor:
    """Zero, with the gradient of a control variate: a part of the tail's mass is taught as one token, whatever is in
    it, and every draw loses what the student's own distribution makes of that part."""
    with torch.no_grad():
        own_PK = student_PK.exp().masked_fill(targets.logprobs_PK.isneginf(), 0)
        rest_P1 = 1 - own_PK.sum(-1, keepdim=True)
        weights_PD = targets.draw_weights_PD.to(own_PK.dtype)
        part_P1 = torch.where(rest_P1 > 1e-3, CONTROL * weights_PD.sum(-1, keepdim=True) / rest_P1.clamp(min=1e-3), 0)
        ratio_PD = (student_PD - targets.draw_logprobs_PD).clamp(max=50).exp()
        less_PD = weights_PD * (part_P1 * ratio_PD).clamp(max=1)
    known_P = (part_P1 * own_PK * student_PK.where(own_PK > 0, 0)).sum(-1)
    steady_P = known_P + (less_PD * student_PD.where(less_PD > 0, 0)).sum(-1)
    return steady_P - steady_P.detach()


@torch.no_grad()
def _hardness(logits_PV: Tensor, targets: SparseTargets, hard: float) -> Tensor:
    student_P = logprobs_at(logits_PV, targets.ids_PK[:, :1])[0][:, 0].exp()
    teacher_P = targets.logprobs_PK[:, 0].to(student_P.dtype).exp()
    return 1 + hard * (1 - student_P / teacher_P.clamp(min=1e-30)).clamp(min=0)


def _mass_outside(logits_PV: Tensor, targets: SparseTargets) -> Tensor:
    """Logarithm of the student's unnormalised mass outside the K entries, exact where 1 - sum would cancel."""
    padding_PK = targets.logprobs_PK.isneginf()
    ids_PK = targets.ids_PK.where(~padding_PK, targets.ids_PK[:, :1])
    return logits_PV.scatter(-1, ids_PK, float("-inf")).logsumexp(-1)


def _check_ids(targets: SparseTargets, vocabulary: int) -> None:
    for ids in (targets.ids_PK, targets.draw_ids_PD):
        if ids.numel() and int(ids.max()) >= vocabulary:
            raise InputError(
                f"target id {int(ids.max())} is outside the student's vocabulary of {vocabulary}: teacher and student "
                "do not share a tokenizer"
            )
