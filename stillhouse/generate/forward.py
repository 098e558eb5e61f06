"""Given answers scored, in groups of rows with an adapter each.

In: lists of token ids, and an AdapterBank with one slot per row. Out: what the caller makes of the logits of every
position; a `[tokens, vocabulary]` tensor never outlives its sequence. It does not know what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..compute.kernels import built
from ..models import Model
from ..models.forward import head, pad_right

R = TypeVar("R")
Ids = list[int]


class Bank(Protocol):
    """What this file asks of an AdapterBank."""

    def rows(self, slots: Sequence[int] | None, wide: bool = False) -> AbstractContextManager[Any]: ...


@torch.inference_mode()
def score(
    model: Model,
    sequences: Sequence[Ids],
    reduce: Callable[[int, Tensor], R],
    *,
    bank: Bank | None = None,
    slots: Sequence[int] | None = None,
    batch_tokens: int = 2048,
) -> list[R]:
    """`reduce(i, logits_TV)` for every sequence: the logits of all its positions, float32, freed afterwards."""
    results: dict[int, R] = {}
    for rows in batches([len(s) for s in sequences], batch_tokens):
        ids_BT, mask_BT = pad_right([sequences[i] for i in rows], model)
        chosen = [slots[i] for i in rows] if slots is not None else None
        with adapting(bank, chosen, model):
            hidden_BTH = model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        for i, hidden_TH in zip(rows, hidden_BTH, strict=True):
            results[i] = reduce(i, head(model)(hidden_TH[: len(sequences[i])]).float())
    return [results[i] for i in range(len(sequences))]


def adapting(bank: Bank | None, slots: Sequence[int] | None, model: Model) -> AbstractContextManager[Any]:
    """Inside, row i of a batch uses the adapter in `slots[i]` of the bank, if there is one."""
    wide = model.device.type == "cpu" and model.network.dtype == torch.float32 and built()  # always by the kernel then
    return bank.rows(slots, wide=wide) if bank else nullcontext()


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in groups of similar length, each at most `batch_tokens` with padding (one row always fits)."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and lengths[i] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
