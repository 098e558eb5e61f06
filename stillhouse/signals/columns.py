"""Target positions as columns of numbers, between Parquet shards, records and the tensors of a loss.

In: records, tensors, or the lists of a Parquet row group. Out: `Targets`: P positions, with the exact entries and the
draws of all positions in flat arrays, and their counts per position. Every function works on whole columns, so a shard
of millions of positions takes no Python object per position.

It does not know files, examples or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..losses import SparseTargets

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Steps = NDArray[np.uint16]
N = TypeVar("N", bound=np.generic)
NOTHING = 65535  # of a quantised number: minus infinity, or not known
DEEPEST = 64.0  # nats: what is less likely than exp(-64) is as good as impossible


@dataclass(frozen=True)
class Targets:
    """P positions. `ids` and `logprobs` are `count_P` entries a position, most likely first; draws likewise.

    `actual_P` is the teacher's log-probability of the token that stands there, nan where it was not kept.
    """

    position_P: Ints
    offset_P: Ints
    actual_P: Floats
    tail_P: Floats
    count_P: Ints
    ids: Ints
    logprobs: Floats
    draws_P: Ints
    draw_ids: Ints
    draw_logprobs: Floats

    def __len__(self) -> int:
        return len(self.position_P)

    def sparse(self, rows: Ints | None = None, device: torch.device | None = None) -> SparseTargets:
        """The positions `rows` (default: all) as the tensors a loss takes, padded to the longest."""
        rows = np.arange(len(self)) if rows is None else rows
        ids_PK, logprobs_PK = _padded(self.count_P, rows, (self.ids, 0), (self.logprobs, -np.inf), least=1)
        draw_ids_PD, draw_logprobs_PD = _padded(self.draws_P, rows, (self.draw_ids, 0), (self.draw_logprobs, 0))
        draws_P1, tail_P = self.draws_P[rows][:, None], self.tail_P[rows].astype(np.float32)
        used_PD = np.arange(draw_ids_PD.shape[1]) < draws_P1
        weights_PD = np.where(used_PD, tail_P[:, None] / np.maximum(draws_P1, 1), 0).astype(np.float32)
        columns = (ids_PK, logprobs_PK, tail_P, draw_ids_PD, draw_logprobs_PD, weights_PD)
        return SparseTargets(*(torch.from_numpy(np.ascontiguousarray(c)).to(device or "cpu") for c in columns))


def concatenate(parts: Sequence[Targets]) -> Targets:
    """The positions of all parts, in their order."""
    return Targets(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Targets)))


def from_sparse(sparse: SparseTargets, position_P: Ints, offset_P: Ints, actual_P: Floats) -> Targets:
    """The tensors of a loss as columns: entries of log-probability -inf and draws of weight 0 are left out."""
    tensors = [t.detach().cpu().numpy() for t in sparse]
    ids_PK, logprobs_PK, tail_P, draw_ids_PD, draw_logprobs_PD, weights_PD = tensors
    kept_PK, used_PD = ~np.isneginf(logprobs_PK), weights_PD > 0
    return Targets(
        position_P,
        offset_P,
        actual_P,
        tail_P,
        kept_PK.sum(-1),
        ids_PK[kept_PK],
        logprobs_PK[kept_PK],
        used_PD.sum(-1),
        draw_ids_PD[used_PD],
        draw_logprobs_PD[used_PD],
    )


def quantise(logprobs: NDArray[np.floating], quantum: float) -> Steps:
    """Natural logarithms as steps of `1 / quantum` nats below 0; under -64 nats, or nan, `NOTHING`."""
    steps = np.round(-np.clip(logprobs.astype(np.float64), -DEEPEST, 0) * quantum)
    return np.where((logprobs <= -DEEPEST) | np.isnan(logprobs), NOTHING, np.minimum(steps, NOTHING - 1)).astype(
        np.uint16
    )


def nats(steps: Steps, quantum: float) -> Floats:
    """`quantise` undone; `NOTHING` is read as -64 nats."""
    return np.where(steps == NOTHING, -DEEPEST, -steps.astype(np.float64) / quantum).astype(np.float32)


def to_gaps(count_P: Ints, ids: Ints, steps: Steps) -> tuple[Ints, Steps]:
    """Each position's entries by ascending id, and the ids as differences to the one before (the first as it is)."""
    group, width = np.repeat(np.arange(len(count_P)), count_P), int(ids.max(initial=0)).bit_length()
    if len(count_P).bit_length() + width + 16 < 64:  # all three in one number, which sorts ten times as fast
        packed = np.sort(group << (width + 16) | ids.astype(np.int64) << 16 | steps)
        ordered, steps = packed >> 16 & ((1 << width) - 1), (packed & 0xFFFF).astype(np.uint16)
    else:
        order = np.lexsort((steps, ids, group))
        ordered, steps = ids[order], steps[order]
    gaps = np.diff(ordered, prepend=0)
    first = _starts(count_P)[count_P > 0]
    gaps[first] = ordered[first]
    return gaps, steps


def from_gaps(count_P: Ints, gaps: Ints, steps: Steps) -> tuple[Ints, Steps]:
    """`to_gaps` undone: entries by ascending `steps`, so most likely first, then by id."""
    if not len(gaps):
        return gaps.astype(np.int64), steps
    group = np.repeat(np.arange(len(count_P)), count_P)
    sums = np.cumsum(gaps.astype(np.int64))
    first = _starts(count_P)
    before = np.concatenate([[0], sums])[first]
    ids = sums - np.repeat(before, count_P)
    order = np.lexsort((ids, steps, group))
    return ids[order], steps[order]


def per_position(count_P: Ints, *flat: NDArray[np.generic]) -> list[tuple[tuple[Any, ...], ...]]:
    """For each position a tuple per flat column: its own values."""
    ends = np.cumsum(count_P).tolist()
    lists = [f.tolist() for f in flat]
    starts = [0, *ends[:-1]] if ends else []
    return [tuple(tuple(values[a:b]) for values in lists) for a, b in zip(starts, ends, strict=True)]


def flat_array(values: Iterable[Sequence[float]], kind: type[N]) -> NDArray[N]:
    """Sequences one after another as one array."""
    return np.array([v for part in values for v in part], dtype=kind)


def _starts(count_P: Ints) -> Ints:
    return np.cumsum(count_P) - count_P


def _padded(
    count_P: Ints, rows: Ints, *columns: tuple[NDArray[np.generic], float], least: int = 0
) -> list[NDArray[np.generic]]:
    """Each flat column as `[rows, longest]`, filled up with its own value."""
    counts = count_P[rows]
    width = max(int(counts.max(initial=0)), least)
    index = _starts(count_P)[rows][:, None] + np.arange(width)
    inside = np.arange(width) < counts[:, None]
    result: list[NDArray[np.generic]] = []
    for flat, fill in columns:
        padded = np.full(index.shape, fill, dtype=flat.dtype)
        padded[inside] = flat[index[inside]]
        result.append(padded)
    return result
