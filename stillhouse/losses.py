"""KL divergences of a student from a teacher's sparse distribution, and the dense twins tests hold them to.

In: student logits (or the hidden states and the LM head that make them) at P target positions, and for each the
teacher's exact top-k log-probabilities, the mass of the rest, and a few draws from it. Out: nats per position, `[P]`,
float32 or better; weighting and averaging are the caller's.

Top-k alone is a biased target that teaches overconfidence; a few importance-weighted draws make the gradient unbiased
(Anshumann et al. 2025, Sparse Logit Sampling, "RS-KD", arXiv 2503.16870, there for draws over the whole vocabulary;
here the top-k is exact and only the tail is drawn). It does not know models, tokenizers, files or users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .errors import InputError

Tail = Literal["sampled", "ghost", "renormalise", "drop"]


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


def sparse_forward_kl(logits_PV: Tensor, targets: SparseTargets, tail: Tail = "sampled") -> Tensor:
    """KL(teacher || student) in nats per position, `[P]`; what the tail counts for is `tail`:

    - "sampled": its draws, by importance weight. Unbiased in value and gradient (arXiv 2503.16870). A tail without
      draws counts as dropped.
    - "ghost": one more token, whose mass in the student is all that the student gives outside the K entries. A lower
      bound of the dense KL.
    - "renormalise": the K entries are scaled to sum to one, the tail is ignored. Teaches overconfidence.
    - "drop": left out; the K terms of the dense sum, which can be negative.

    With K = V all four are the dense KL. `InputError` when a target id is outside the student's vocabulary.
    """
    _check_ids(targets, logits_PV.shape[-1])
    if not logits_PV.shape[0]:
        return logits_PV.sum(-1)
    logits_PV = _precise(logits_PV)
    normaliser_P1 = logits_PV.logsumexp(-1, keepdim=True)
    student_PK = logits_PV.gather(-1, targets.ids_PK) - normaliser_P1
    logprobs_PK = targets.logprobs_PK.to(student_PK.dtype)
    if tail == "renormalise":
        logprobs_PK = logprobs_PK - logprobs_PK.logsumexp(-1, keepdim=True)
    loss_P = _terms(logprobs_PK.exp(), logprobs_PK, student_PK).sum(-1)
    if tail == "sampled" and targets.draw_ids_PD.shape[-1]:
        student_PD = logits_PV.gather(-1, targets.draw_ids_PD) - normaliser_P1
        weights_PD = targets.draw_weights_PD.to(student_PD.dtype)
        loss_P = loss_P + _terms(weights_PD, targets.draw_logprobs_PD, student_PD).sum(-1)
    if tail == "ghost" and targets.ids_PK.shape[-1] < logits_PV.shape[-1]:
        mass_P = targets.tail_P.to(logits_PV.dtype).clamp(min=0)
        rest_P = _mass_outside(logits_PV, targets) - normaliser_P1[:, 0]
        loss_P = loss_P + _terms(mass_P, mass_P.log(), rest_P)
    return loss_P


def chunked_forward_kl(
    hidden_PH: Tensor,
    head: Callable[[Tensor], Tensor],
    targets: SparseTargets,
    tail: Tail = "sampled",
    chunk: int = 512,
) -> Tensor:
    """`sparse_forward_kl(head(hidden_PH), targets, tail)`, at most `chunk` positions through `head` at a time.

    Under gradients each chunk's logits are computed again in the backward pass instead of kept, so memory is
    `chunk * V` whatever P is. `head` maps `[p, H]` to `[p, V]`, soft-capping included.
    """
    if chunk < 1:
        raise InputError(f"chunk: {chunk} is not a positive number of positions")

    def part(hidden_pH: Tensor, start: int) -> Tensor:
        mine = SparseTargets(*(t[start : start + chunk] for t in targets))
        return sparse_forward_kl(head(hidden_pH), mine, tail)

    starts = range(0, max(len(hidden_PH), 1), chunk)
    pieces = zip(torch.split(hidden_PH, chunk), starts, strict=True)
    if len(starts) == 1 or not torch.is_grad_enabled():
        return torch.cat([part(*piece) for piece in pieces])
    return torch.cat([checkpoint(part, *p, use_reentrant=False, preserve_rng_state=False) for p in pieces])


def dense_forward_kl(logits_PV: Tensor, teacher_logprobs_PV: Tensor) -> Tensor:
    """KL(teacher || student) in nats per position, `[P]`, over the whole vocabulary."""
    logits_PV = _precise(logits_PV)
    student_PV = logits_PV - logits_PV.logsumexp(-1, keepdim=True)
    teacher_PV = teacher_logprobs_PV.to(student_PV.dtype)
    return _terms(teacher_PV.exp(), teacher_PV, student_PV).sum(-1)


def sparsify(logprobs_PV: Tensor, k: int, draws: int, generator: torch.Generator | None = None) -> SparseTargets:
    """A dense distribution as `SparseTargets`: exact top `k` (at most V), tail mass, `draws` from the tail.

    Draws are with replacement and in proportion to the teacher's probability, so each weighs tail / draws.
    logprobs_PV: normalised, -inf allowed.
    """
    if k < 1 or draws < 0:
        raise InputError(f"k = {k}, draws = {draws}: k must be at least 1 and draws at least 0")
    logprobs_PV = _precise(logprobs_PV)
    top_PK, ids_PK = logprobs_PV.topk(min(k, logprobs_PV.shape[-1]), dim=-1)
    ids_PK = ids_PK.masked_fill(top_PK.isneginf(), 0)
    rest_PV = logprobs_PV.exp().scatter(-1, ids_PK, 0)
    tail_P = rest_PV.sum(-1)
    ids_PD = ids_PK.new_zeros(len(ids_PK), draws)
    if draws and len(ids_PK):
        drawable_P1 = (tail_P > 0)[:, None]
        chances_PV = torch.where(drawable_P1, rest_PV / tail_P[:, None], 1 / rest_PV.shape[-1])
        drawn_PD = torch.multinomial(chances_PV, draws, replacement=True, generator=generator)
        ids_PD = drawn_PD * drawable_P1
    used_PD = (tail_P > 0)[:, None].expand(-1, draws)
    draw_logprobs_PD = logprobs_PV.gather(-1, ids_PD).where(used_PD, 0)
    weights_PD = (tail_P[:, None] / max(draws, 1)).expand(-1, draws).contiguous()
    return SparseTargets(ids_PK, top_PK.float(), tail_P.float(), ids_PD, draw_logprobs_PD.float(), weights_PD.float())


def _terms(weights: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """weights * (teacher - student), 0 where the weight is 0 whatever the logarithms are."""
    used = weights > 0
    return torch.where(used, weights * (torch.where(used, teacher.to(student.dtype), 0) - student), 0)


def _mass_outside(logits_PV: Tensor, targets: SparseTargets) -> Tensor:
    """Logarithm of the student's unnormalised mass outside the K entries, exact where 1 - sum would cancel."""
    padding_PK = targets.logprobs_PK.isneginf()
    ids_PK = targets.ids_PK.where(~padding_PK, targets.ids_PK[:, :1])
    return logits_PV.scatter(-1, ids_PK, float("-inf")).logsumexp(-1)


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_ids(targets: SparseTargets, vocabulary: int) -> None:
    for ids in (targets.ids_PK, targets.draw_ids_PD):
        if ids.numel() and int(ids.max()) >= vocabulary:
            raise InputError(
                f"target id {int(ids.max())} is outside the student's vocabulary of {vocabulary}: teacher and student "
                "do not share a tokenizer"
            )
