"""A distribution over a whole vocabulary becomes a few entries that stand for all of it.

In: log-probabilities or logits at P positions. Out: `SparseTargets`: some exact entries, the mass of the tail, and
draws from the tail. There are two ways to draw:

- `sparsify` keeps the top k and makes the same number of independent draws everywhere, so a caller can fix each draw by
  itself and an answer does not depend on its neighbours in the batch.
- `sparsify_logits` is for large vocabularies and takes logits as they are. One draw stands for `share` of mass while
  `draws` last: a fixed number of draws would err most where a teacher hesitates and waste bytes where it does not
  (threshold sampling: Duffield, Lund & Thorup 2005). Its draws are systematic (Madow 1949): equally far apart on the
  cumulated tail from one random start, so each token is drawn as often as its probability says, up to a fraction, and
  hardly ever twice. It sorts nothing: it looks at a vocabulary as a table, whose columns' maxima say where the large
  entries are, and as blocks of neighbours, whose masses say where the draws fall.

It does not know models, prompts or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError
from ..losses import SparseTargets
from ..losses.head import precise

BLOCK = 1 << 18  # log-probabilities at once on a CPU: fresh memory for large buffers costs more than the sums in them
LOGITS_BLOCK = 1 << 19  # logits at once on a CPU, which is slow at what its cache does not hold
LEAST = 1e-4  # mass of a tail that is worth a draw
WORTH = 0.75  # of a draw's mass: what is likelier is exact
COARSE = 2.0  # steps per nat of a draw's own log-probability, which hardly any gradient depends on
INSIDE = 1 - 1e-6  # of a sum: rounding must not leave it


@dataclass(frozen=True)
class Sparsity:
    """How a distribution is cut down, per position."""

    top_k: int = 16
    """Exact entries, at most."""
    draws: int = 4
    """Draws from the tail, at most."""
    share: float = 0.0
    """Mass that one draw stands for while `draws` last; 0: all draws are made. Entries under three quarters of it are
    left to the draws. `sparsify_logits` alone knows it."""
    keep: float = 0.0
    """Probability of an exact entry, at least; the first is always kept. `sparsify_logits` alone knows it."""


def sparsify(
    logprobs_PV: Tensor,
    k: int,
    draws: int,
    generator: torch.Generator | None = None,
    chances_PD: Tensor | None = None,
) -> SparseTargets:
    """A dense distribution as `SparseTargets`: exact top `k` (at most V), tail mass, `draws` from the tail.

    Draws are with replacement and in proportion to the teacher's probability, so each weighs tail / draws. They come
    from `generator`, or where `chances_PD`, numbers from 0 up to 1, fall on the tail. logprobs_PV: normalised, -inf
    allowed.
    """
    if k < 1 or draws < 0:
        raise InputError(f"k = {k}, draws = {draws}: k must be at least 1, draws at least 0")
    if chances_PD is None:
        chances_PD = torch.rand(len(logprobs_PV), draws, generator=generator, device=logprobs_PV.device)
    rows = rows_at_once(logprobs_PV, BLOCK)
    return SparseTargets(*_joined(_independent, logprobs_PV.split(rows), chances_PD.split(rows), k=k))


def sparsify_logits(
    logits_PV: Tensor, sparsity: Sparsity, generator: torch.Generator | None = None
) -> tuple[SparseTargets, Tensor]:
    """`SparseTargets` and `normaliser_P`, float32, as `sparsity` says.

    Positions whose logits are not numbers have a normaliser of nan. `logits_PV` is float32, and lost.
    """
    parts = logits_PV.split(rows_at_once(logits_PV, LOGITS_BLOCK))
    *targets, normaliser_P = _joined(_systematic, parts, sparsity=sparsity, generator=generator)
    return SparseTargets(*targets), normaliser_P


def rows_at_once(values_PV: Tensor, block: int) -> int:
    """How many positions are computed at a time: on a CPU, about `block` values of them; elsewhere, all."""
    return max(1, block // max(1, values_PV.shape[1]) if values_PV.device.type == "cpu" else len(values_PV))


def _joined(cut: Callable[..., tuple[Tensor, ...]], *parts: tuple[Tensor, ...], **rest: object) -> tuple[Tensor, ...]:
    """What `cut` makes of each block of positions, as if it had been made of all at once."""
    blocks = [cut(*block, **rest) for block in zip(*parts, strict=True)]
    return blocks[0] if len(blocks) == 1 else tuple(map(torch.cat, zip(*blocks, strict=True)))


def _independent(logprobs_PV: Tensor, chances_PD: Tensor, k: int) -> SparseTargets:
    logprobs_PV = precise(logprobs_PV)
    top_PK, ids_PK = logprobs_PV.topk(min(k, logprobs_PV.shape[-1]), dim=-1)
    rest_PV = logprobs_PV.exp().scatter_(-1, ids_PK, 0)
    tail_P1 = rest_PV.sum(-1, keepdim=True)
    drawable_P1 = tail_P1 > 0
    below_PV = (rest_PV / tail_P1.where(drawable_P1, 1)).cumsum(-1)
    at_PD = (1 - chances_PD).to(below_PV) * below_PV[:, -1:]  # never 0: what has no chance is not drawn
    ids_PD = torch.searchsorted(below_PV, at_PD) * drawable_P1
    number_P1 = drawable_P1 * chances_PD.shape[-1]
    return _targets(ids_PK, top_PK, tail_P1, number_P1, ids_PD, logprobs_PV.gather(-1, ids_PD))


def _systematic(logits_PV: Tensor, sparsity: Sparsity, generator: torch.Generator | None) -> tuple[Tensor, ...]:
    mass_PV, column_PC, most_P1 = _exponentials(logits_PV)
    height = mass_PV.shape[1] // column_PC.shape[1]
    ids_PK, mass_PK = _largest(mass_PV.unflatten(1, (height, -1)), column_PC, min(sparsity.top_k, logits_PV.shape[1]))
    total_P1 = mass_PV.sum(-1, keepdim=True)
    exact_PK = mass_PK >= max(sparsity.keep, WORTH * sparsity.share if sparsity.draws else 0.0) * total_P1
    exact_PK[:, 0] = True
    mass_PV.scatter_(-1, ids_PK, mass_PK * ~exact_PK)
    blocks_PBW = mass_PV.unflatten(1, (-1, height))
    tail_P1 = (block_PB := blocks_PBW.sum(-1)).sum(-1, keepdim=True) / total_P1
    number_P1 = _number(tail_P1, sparsity)
    ids_PD = _drawn(blocks_PBW, block_PB, number_P1, sparsity.draws, generator)
    draw_logprobs_PD = ((mass_PV.gather(-1, ids_PD) / total_P1).log() * COARSE).round() / COARSE
    logprobs_PK = (mass_PK / total_P1).log().masked_fill(~exact_PK, -torch.inf)
    targets = _targets(ids_PK, logprobs_PK, tail_P1, number_P1, ids_PD, draw_logprobs_PD)
    return *targets, (most_P1 + total_P1.log())[:, 0]


def _targets(
    ids_PK: Tensor,
    logprobs_PK: Tensor,
    tail_P1: Tensor,
    number_P1: Tensor,
    draw_ids_PD: Tensor,
    draw_logprobs_PD: Tensor,
) -> SparseTargets:
    """The record, with zeros in the place of entries that were not kept and of draws beyond `number_P1`."""
    used_PD = torch.arange(draw_ids_PD.shape[-1], device=tail_P1.device) < number_P1
    weights_PD = tail_P1 / number_P1.clamp(min=1) * used_PD
    return SparseTargets(
        ids_PK.masked_fill(logprobs_PK.isneginf(), 0),
        logprobs_PK.float(),
        tail_P1[:, 0].float(),
        draw_ids_PD * used_PD,
        draw_logprobs_PD.where(used_PD, 0).float(),
        weights_PD.float(),
    )


def _exponentials(logits_PV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`exp(logits - largest)`, in place where a table's height divides the vocabulary, else padded until it does; the
    largest logit of every column of that table, and of every position."""
    size = logits_PV.shape[1]
    height = 1 << (size.bit_length() - 1) // 2
    even = min(height, size & -size)  # the largest power of two in it
    height = even if 8 * even >= height else height
    logits_PV = pad(logits_PV, (0, -size % height), value=-torch.inf) if size % height else logits_PV
    column_PC = logits_PV.unflatten(1, (height, -1)).amax(1)
    most_P1 = column_PC.amax(-1, keepdim=True)
    return logits_PV.sub_(most_P1).exp_(), column_PC, most_P1


def _largest(table_PGC: Tensor, most_PC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids and values of the `k` largest of every table, most first: they are in the columns with the largest."""
    _, height, width = table_PGC.shape
    column_PK = most_PC.topk(min(k, width), dim=-1).indices
    near_PGK = table_PGC.gather(2, column_PK[:, None].expand(-1, height, -1))
    value_PK, at_PK = near_PGK.flatten(1).topk(k, dim=-1)
    count = column_PK.shape[1]
    return at_PK // count * width + column_PK.gather(-1, at_PK % count), value_PK


def _number(tail_P1: Tensor, sparsity: Sparsity) -> Tensor:
    """How many draws stand for each tail."""
    if not sparsity.share:
        return torch.where(tail_P1 > 0, sparsity.draws, 0)
    return (tail_P1 / sparsity.share).ceil().clamp(max=sparsity.draws).nan_to_num().long() * (tail_P1 >= LEAST)


def _drawn(
    mass_PBW: Tensor, block_PB: Tensor, number_P1: Tensor, draws: int, generator: torch.Generator | None
) -> Tensor:
    """Ids at equal distances on the cumulated masses; the first `number_P1` of each position are meant."""
    (rows, blocks, width), device = mass_PBW.shape, mass_PBW.device
    sums_PB = block_PB.cumsum(-1)
    start_P1 = torch.rand(rows, 1, generator=generator, device=device)
    share_PD = (start_P1 + torch.arange(draws, device=device)) / number_P1.clamp(min=1)
    at_PD = share_PD.clamp(max=INSIDE) * sums_PB[:, -1:]
    block_PD = torch.searchsorted(sums_PB, at_PD, right=True).clamp(max=blocks - 1)
    flat_X = (block_PD + blocks * torch.arange(rows, device=device)[:, None]).flatten()
    within_PDW = mass_PBW.flatten(0, 1).index_select(0, flat_X).view(rows, draws, width).cumsum(-1)
    left_PD = at_PD - (sums_PB - block_PB).gather(-1, block_PD)
    left_PD = torch.minimum(left_PD.clamp(min=0), within_PDW[..., -1] * INSIDE)
    return block_PD * width + (within_PDW <= left_PD[..., None]).sum(-1).clamp(max=width - 1)
