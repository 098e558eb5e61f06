"""Rows that are computed together: the next ids of each row, and the unread part of their prompts.

In: a runner and rows with their adapter slots. Out: next-token logits, float32. A `RowBatch` reads its prompts in
pieces, or decodes one token of each row. Between two steps batches join and rows leave. It does not know why a row
runs, or when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...runners import Runner, SavedRow
from .sequence import Row


class RowBatch:
    """Rows with one cache. The prompts of all rows end in the same step."""

    def __init__(
        self, runner: Runner, rows: Sequence[Row], saved: Sequence[tuple[SavedRow | None, int]] = (), tokens: int = 0
    ) -> None:
        """`saved`: what each row begins with, as `Runner.cache` takes it. `tokens`: tokens of a row in the next
        forward."""
        self._runner, self.rows = runner, list(rows)
        self.cache = runner.cache([row.slot for row in rows], saved, tokens)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def left(self) -> int:
        """Unread tokens of the longest prompt."""
        return max(row.length - row.computed for row in self.rows)

    def piece(self, tokens: int) -> list[list[int]]:
        """The next ids of each row's prompt, at most `tokens` of each. A shorter prompt begins in a later piece."""
        left = self.left
        return [
            list(row.request.prompt[max(row.length - left, 0) : max(row.length - left + tokens, 0)])
            for row in self.rows
        ]

    def prefill(self, tokens: int) -> Tensor | None:
        """Read the next piece of the prompts. Returns `logits_BV` after the last piece, and None before."""
        logits_BV = self._runner.prefill(self.cache, self.piece(tokens), logits=tokens == self.left)
        self._count()
        return logits_BV

    def decode(self) -> Tensor:
        """`logits_BV` after the newest token of every row."""
        logits_BV = self._runner.decode(self.cache, self._newest)
        self._count()
        return logits_BV

    def decode_with(self, other: RowBatch, tokens: int) -> tuple[Tensor, Tensor | None]:
        """`decode`, and `other.prefill(tokens)` in the same forward. When it raises, nothing has changed."""
        last = tokens == other.left
        logits = self._runner.mixed(self.cache, self._newest, other.cache, other.piece(tokens), logits=last)
        self._count()
        other._count()
        return logits

    @property
    def _newest(self) -> list[int]:
        return [row.output[-1] for row in self.rows]

    def _count(self) -> None:
        for place, row in enumerate(self.rows):
            row.computed = self.cache.length(place)

    def join(self, other: RowBatch) -> None:
        """Append all rows of another batch."""
        self.cache.join(other.cache)
        self.rows += other.rows

    def leave(self, row: Row, save: bool = False) -> SavedRow | None:
        """Drop a row. The last row takes its place. Returns a copy of its keys and values when `save` is True."""
        place = self.rows.index(row)
        saved = self.cache.save(place) if save else None
        self.cache.leave(place)
        last = self.rows.pop()
        if last is not row:
            self.rows[place] = last
        return saved
