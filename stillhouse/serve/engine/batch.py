"""Execution: rows and their tokens through the network, in one forward for all of them.

In: rows with their slots in an AdapterBank, and the `Columns` that hold their keys and values. Out: next-token logits,
float32. A `Batch` is fed its prompts in pieces, or one token per row; batches join and rows leave between steps.
It does not know why a row runs, or when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ...compute.threads import Threads
from ...lora import AdapterBank, Held, Packed, Run
from ...models import Model
from .kv_cache import Columns, Kept
from .sequence import Row


class Batch:
    """Rows that are fed together. With `held`, a row's adapter is gathered when it joins, not at every step; while
    prompts are read, only if that takes it from no other batch."""

    def __init__(
        self, model: Model, bank: AdapterBank | None, rows: Sequence[Row], cache: Columns,
        held: Held | Packed | None = None, threads: Threads | None = None,
    ) -> None:  # fmt: skip
        self.model, self.bank, self.rows, self.cache = model, bank, list(rows), cache
        self.held = held if held is not None and held.any_batch else None
        self._threads = threads

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def left(self) -> int:
        """Columns of the prompts that are still to be read."""
        return self.cache.starts[0] + len(self.rows[0].request.prompt) - self.cache.span.end

    def piece(self, columns: int) -> list[list[int]]:
        """The next ids of each row's prompt, as many as there are `columns`; padding before its first."""
        pad, end = self.model.tokenizer.pad_token_id or 0, self.cache.span.end
        found = []
        for row, start in zip(self.rows, self.cache.starts, strict=True):
            ids = list(row.request.prompt[max(end - start, 0) : max(end - start + columns, 0)])
            found.append([pad] * (columns - len(ids)) + ids)
        return found

    def feed(self, ids: Sequence[Sequence[int]], wanted: bool = True) -> Tensor | None:
        """One forward over each row's next ids, of one length; `logits_BV` behind them if wanted."""
        width, device = len(ids[0]), self.model.device
        self.prepare(width * len(ids))
        ids_BT = torch.tensor(ids, device=device)
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
        with self.adapted():
            if wanted:
                logits_BV: Tensor = self.model.network(**settings, logits_to_keep=1).logits[:, -1].float()
            else:
                self.model.network.base_model(**settings)
        self.fed(width)
        return logits_BV if wanted else None

    def prepare(self, tokens: int) -> None:
        """A forward of so many tokens is next."""
        if self._threads is not None:
            self._threads.prepare(tokens)

    def fed(self, columns: int) -> None:
        """After a forward: its columns count."""
        self.cache.extend(columns)
        for place, row in enumerate(self.rows):
            row.fed = self.cache.length(place)

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

    def adapted(self, runs: Sequence[Run] = ()) -> AbstractContextManager[None]:
        """Each row with its own adapter; with `runs`, a token of each row and then runs of other rows' tokens."""
        if self.bank is None:
            return nullcontext()
        slots = [row.slot for row in self.rows]
        return self.bank.rows(slots) if self.held is None else self.bank.holding(self.held, slots, runs)
