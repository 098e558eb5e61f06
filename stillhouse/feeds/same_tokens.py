"""A teacher's shards as what a student of the same tokenizer trains on, and what any such feed of examples is.

In: shards and the width of the student's logits. Out: batches of padded ids with a loss at every target position. A
teacher whose vocabulary is padded further than the student's is trimmed: entries past the student's end join the tail.

It does not know optimisers, and the loop that calls it does not know which feed it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..losses import Objective, SparseTargets, chunked
from ..signals import Shard
from ..signals.columns import concatenate

Head = Callable[[Tensor], Tensor]


class FeedBatch(Protocol):
    """Rows of padded ids, and the losses of their targets."""

    ids_BT: Tensor
    mask_BT: Tensor
    targets: SparseTargets  # of P tokens, in the student's ids; a row of -inf where the teacher cannot be compared

    def where(self) -> tuple[Tensor, Tensor]:
        """Row and column of those P tokens."""
        ...

    def losses(self, hidden_BTH: Tensor, head: Head, objective: Objective) -> Tensor:
        """Nats, one value per target; their sum over `Feed.positions` is the mean."""
        ...


class Feed(Protocol):
    """Examples by number. `lengths` are in the student's tokens, `positions` are the targets of each."""

    lengths: Sequence[int]
    positions: Sequence[int]

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> FeedBatch:
        """These examples as one batch."""
        ...


class SameTokens:
    """Feed for a student that shares the teacher's ids."""

    def __init__(self, shards: Iterable[Shard], vocabulary: int, context: int):
        read = list(shards)
        if not read:
            raise InputError("no signals: there is no example to train on")
        self.vocabulary = vocabulary
        self._x_ids = [ids for shard in read for ids in shard.x_ids]
        self._targets = concatenate([shard.targets for shard in read])
        counts = np.concatenate([np.diff(shard.first_N1) for shard in read])
        self._first_N1 = np.concatenate([[0], np.cumsum(counts)])
        self.lengths: Sequence[int] = [len(ids) for ids in self._x_ids]
        self.positions: Sequence[int] = counts.tolist()
        check_context(self.lengths, context)
        _check_ids(self._x_ids, vocabulary)

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> SameBatch:
        rows = [np.arange(self._first_N1[i], self._first_N1[i + 1]) for i in numbers]
        sparse = trimmed(self._targets.sparse(np.concatenate(rows), device), self.vocabulary)
        at_P = np.concatenate([self._targets.position_P[r] for r in rows])
        row_P = np.repeat(np.arange(len(numbers)), [len(r) for r in rows])
        ids_BT, mask_BT = padded([self._x_ids[i] for i in numbers], pad, device)
        return SameBatch(
            ids_BT,
            mask_BT,
            torch.from_numpy(row_P).to(device),
            torch.from_numpy(at_P.astype(np.int64)).to(device),
            sparse,
        )


class SameBatch:
    """Targets at `row_P`, `at_P`: the place of the token to predict."""

    def __init__(self, ids_BT: Tensor, mask_BT: Tensor, row_P: Tensor, at_P: Tensor, targets: SparseTargets):
        self.ids_BT, self.mask_BT, self.targets = ids_BT, mask_BT, targets
        self.row_P, self.at_P = row_P, at_P

    def where(self) -> tuple[Tensor, Tensor]:
        return self.row_P, self.at_P

    def losses(self, hidden_BTH: Tensor, head: Head, objective: Objective) -> Tensor:
        labels_P = self.ids_BT[self.row_P, self.at_P]
        return chunked(hidden_BTH[self.row_P, self.at_P - 1], head, self.targets, labels_P, objective)


def trimmed(targets: SparseTargets, vocabulary: int) -> SparseTargets:
    """Without entries and draws of ids that a vocabulary of that many does not have; their mass is tail."""
    beyond_PK, beyond_PD = targets.ids_PK >= vocabulary, targets.draw_ids_PD >= vocabulary
    if not bool(beyond_PK.any()) and not bool(beyond_PD.any()):
        return targets
    cut_P = torch.where(beyond_PK, targets.logprobs_PK.exp(), 0).sum(-1)
    return SparseTargets(
        targets.ids_PK.masked_fill(beyond_PK, 0),
        targets.logprobs_PK.masked_fill(beyond_PK, -torch.inf),
        targets.tail_P + cut_P,
        targets.draw_ids_PD.masked_fill(beyond_PD, 0),
        targets.draw_logprobs_PD.masked_fill(beyond_PD, 0),
        targets.draw_weights_PD.masked_fill(beyond_PD, 0),
    )


def padded(sequences: Sequence[np.typing.NDArray[np.int64]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`(ids_BT, mask_BT)` padded on the right to a multiple of 8."""
    width = -(-max(map(len, sequences)) // 8) * 8
    ids_BT, mask_BT = np.full((len(sequences), width), pad, np.int64), np.zeros((len(sequences), width), np.int64)
    for row, ids in enumerate(sequences):
        ids_BT[row, : len(ids)], mask_BT[row, : len(ids)] = ids, 1
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)


def check_context(lengths: Sequence[int], context: int) -> None:
    """`InputError` for an example that does not fit the student."""
    if (longest := max(lengths)) > context:
        number = lengths.index(longest) + 1
        raise InputError(
            f"example {number} of the signals has {longest} tokens; the student's context is {context}: capture with "
            f"max_tokens = {context}"
        )


def _check_ids(x_ids: Sequence[np.typing.NDArray[np.int64]], vocabulary: int) -> None:
    highest = max((int(ids.max()) for ids in x_ids if len(ids)), default=0)
    if highest >= vocabulary:
        raise InputError(
            f"signals hold the token id {highest}; the student's vocabulary has {vocabulary}: their tokenizers differ"
        )
