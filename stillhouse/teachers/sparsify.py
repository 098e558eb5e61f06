"""Logits over a whole vocabulary become a few entries that stand for all of them.

In: logits at P positions; they are overwritten. Out: `SparseTargets`, and every position's normaliser. The likeliest
entries are exact, the rest is drawn from, and one draw stands for `share` of mass while `draws` last: a fixed number of
draws would err most where a teacher hesitates and waste bytes where it does not (threshold sampling: Duffield, Lund &
Thorup 2005). Draws are systematic (Madow 1949): equally far apart on the cumulated tail from one random start, so each
token is drawn as often as its probability says, up to a fraction, and hardly ever twice.

Nothing is sorted: a vocabulary is looked at as a table, whose columns' maxima say where the large entries are, and as
blocks of neighbours, whose masses say where the draws fall. It does not know models, prompts or files.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..losses import SparseTargets
from .settings import Config

BLOCK = 1 << 19  # logits reduced at once on a CPU, which is slow at what its cache does not hold
LEAST = 1e-4  # mass of a tail that is worth a draw
WORTH = 0.75  # of a draw's mass: what is likelier is exact
COARSE = 2.0  # steps per nat of a draw's own log-probability, which hardly any gradient hangs on
INSIDE = 1 - 1e-6  # of a sum: rounding must not leave it


def reduce(logits_PV: Tensor, config: Config, generator: torch.Generator | None = None) -> tuple[SparseTargets, Tensor]:
    """`SparseTargets` and `normaliser_P`, float32, as `config`'s `top_k`, `keep`, `draws` and `share` say.

    Positions whose logits are not numbers have a normaliser of nan. `logits_PV` is float32, and lost.
    """
    rows = max(1, len(logits_PV))
    if logits_PV.device.type == "cpu":
        rows = max(1, BLOCK // logits_PV.shape[1])
    blocks = [_reduced(part, config, generator) for part in logits_PV.split(rows)]
    if len(blocks) == 1:
        return blocks[0]
    found = SparseTargets(*map(torch.cat, zip(*(targets for targets, _ in blocks), strict=True)))
    return found, torch.cat([normaliser_p for _, normaliser_p in blocks])


def _reduced(logits_PV: Tensor, config: Config, generator: torch.Generator | None) -> tuple[SparseTargets, Tensor]:
    draws = config.draws
    mass_PV, column_PC, most_P1 = _exponentials(logits_PV)
    height = mass_PV.shape[1] // column_PC.shape[1]
    ids_PK, mass_PK = _largest(mass_PV.unflatten(1, (height, -1)), column_PC, min(config.top_k, logits_PV.shape[1]))
    total_P1 = mass_PV.sum(-1, keepdim=True)
    exact_PK = mass_PK >= max(config.keep, WORTH * config.share if draws else 0.0) * total_P1
    exact_PK[:, 0] = True
    mass_PV.scatter_(-1, ids_PK, mass_PK * ~exact_PK)
    blocks_PBW = mass_PV.unflatten(1, (-1, height))
    tail_P1 = (block_PB := blocks_PBW.sum(-1)).sum(-1, keepdim=True) / total_P1
    number_P1 = _number(tail_P1, config)
    used_PD = torch.arange(draws, device=mass_PV.device) < number_P1
    ids_PD = _drawn(blocks_PBW, block_PB, number_P1, draws, generator) * used_PD
    draw_logprobs_PD = ((mass_PV.gather(-1, ids_PD) / total_P1).log() * COARSE).round() / COARSE
    draw_logprobs_PD = draw_logprobs_PD.where(used_PD, 0)
    weights_PD = tail_P1 / number_P1.clamp(min=1) * used_PD
    logprobs_PK = (mass_PK / total_P1).log().masked_fill(~exact_PK, -torch.inf)
    ids_PK = ids_PK.masked_fill(logprobs_PK.isneginf(), 0)
    targets = SparseTargets(ids_PK, logprobs_PK, tail_P1[:, 0], ids_PD, draw_logprobs_PD, weights_PD)
    return targets, (most_P1 + total_P1.log())[:, 0]


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


def _number(tail_P1: Tensor, config: Config) -> Tensor:
    """How many draws stand for each tail."""
    if not config.share:
        return torch.where(tail_P1 > 0, config.draws, 0)
    return (tail_P1 / config.share).ceil().clamp(max=config.draws).nan_to_num().long() * (tail_P1 >= LEAST)


def _drawn(
    mass_PBW: Tensor, block_PB: Tensor, number_P1: Tensor, draws: int, generator: torch.Generator | None
) -> Tensor:
    """Ids at equal distances on the cumulated masses; the first `number_P1` of each position are meant."""
    (rows, blocks, width), device = mass_PBW.shape, mass_PBW.device
    if not draws:
        return torch.zeros(rows, 0, dtype=torch.long, device=device)
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
