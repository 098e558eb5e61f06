"""Execution: rows and their tokens through the network, in one forward for all of them.

In: rows with their slots in an AdapterBank, and the `Columns` that hold their keys and values. Out: next-token logits,
float32. A `Batch` is fed a prompt in chunks, or one token per row; batches join and rows leave between steps. It does
not know why a row runs, or when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..lora import AdapterBank, Held
from ..models import Model
from ._cache import Columns, Kept
from ._rows import Row


class Batch:
    """Rows that are fed together. With `held`, a row's adapter is gathered when it joins, not at every step."""

    def __init__(self, model: Model, bank: AdapterBank | None, rows: Sequence[Row], cache: Columns) -> None:
        self.model, self.bank, self.rows, self.cache = model, bank, list(rows), cache
        self.held: Held | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def feed(self, ids: Sequence[Sequence[int]], wanted: bool = True) -> Tensor | None:
        """One forward over each row's next ids, padded on the left to the longest; `logits_BV` behind them if wanted.

        Only rows that hold nothing yet may differ in how many they are fed.
        """
        width, device = max(map(len, ids)), self.model.device
        pad = self.model.tokenizer.pad_token_id or 0
        ids_BT = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=device)
        self.cache.make_room(width)
        start_B1 = torch.tensor(self.cache.starts, device=device)[:, None]
        end = self.cache.span.end
        settings = {
            "input_ids": ids_BT,
            "attention_mask": self.cache.mask(width, device),
            "position_ids": (torch.arange(end, end + width, device=device) - start_B1).clamp(min=0),
            "past_key_values": self.cache,
            "use_cache": True,
        }
        with self._adapted():
            if wanted:
                logits_BV: Tensor = self.model.network(**settings, logits_to_keep=1).logits[:, -1].float()
            else:
                self.model.network.base_model(**settings)
        self.cache.extend(width)
        for row, fed in zip(self.rows, ids, strict=True):
            row.fed += len(fed)
        return logits_BV if wanted else None

    def absorb(self, other: Batch) -> None:
        """Take over all rows of another batch, behind the ones here."""
        self.cache.join(other.cache)
        self.rows += other.rows

    def leave(self, row: Row, ids: Sequence[int] | None = None) -> Kept | None:
        """Drop a row; the last one takes its place. With `ids`, a copy of the keys and values it has for them."""
        place = self.rows.index(row)
        kept = self.cache.keep(place, ids) if ids is not None else None
        self.cache.leave(place)
        last = self.rows.pop()
        if last is not row:
            self.rows[place] = last
        return kept

    def _adapted(self) -> AbstractContextManager[None]:
        """Each row with its own adapter."""
        if self.bank is None:
            return nullcontext()
        slots = [row.slot for row in self.rows]
        return self.bank.rows(slots) if self.held is None else self.bank.holding(self.held, slots)
