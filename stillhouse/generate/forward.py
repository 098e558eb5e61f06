"""Scores given answers, in groups of rows with an adapter each.

In: a runner, lists of token ids, an adapter slot for each. Out: what the caller computes from the logits of every
position. A `[tokens, vocabulary]` tensor is freed with its sequence. This module does not know what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..compute.kernels import built
from ..models import Model
from ..runners import BASE, Runner

R = TypeVar("R")
Ids = list[int]


class Bank(Protocol):
    """The part of an `AdapterBank` that `adapting` uses."""

    def rows(self, slots: Sequence[int] | None, wide: bool = False) -> AbstractContextManager[Any]: ...


@torch.inference_mode()
def score(
    runner: Runner,
    sequences: Sequence[Ids],
    reduce: Callable[[int, Tensor], R],
    *,
    slots: Sequence[int] | None = None,
    batch_tokens: int = 2048,
) -> list[R]:
    """Returns `reduce(i, logits_TV)` for every sequence i. `logits_TV` are the float32 logits of all its positions,
    which are freed afterwards. `slots` has the adapter of each sequence; None computes the base alone."""
    results: dict[int, R] = {}
    for rows in batches([len(s) for s in sequences], batch_tokens):
        chosen = [slots[i] if slots is not None else BASE for i in rows]
        for i, reading in zip(rows, runner.read([sequences[i] for i in rows], chosen), strict=True):
            results[i] = reduce(i, reading.logits())
    return [results[i] for i in range(len(sequences))]


def adapting(bank: Bank | None, slots: Sequence[int] | None, model: Model) -> AbstractContextManager[Any]:
    """In this context, row i of a batch uses the adapter in `slots[i]` of the bank. Without a bank it does nothing."""
    wide = (
        model.device.type == "cpu" and model.network.dtype == torch.float32 and built()
    )  # the kernel then computes every row
    return bank.rows(slots, wide=wide) if bank else nullcontext()


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yields row numbers in groups of similar length. A group has at most `batch_tokens` tokens with padding, but at
    least one row."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and lengths[i] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
