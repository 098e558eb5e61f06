"""Rows that are computed together: which ids come next for each, and what is left of their prompts.

In: a runner and rows with their adapter slots. Out: next-token logits, float32. A `Batch` reads its prompts in pieces,
or gets one token per row; batches join and rows leave between steps. It does not know why a row runs, or when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...runners import Runner, SavedRow
from .sequence import Row


class Batch:
    """Rows with one cache. All their prompts end in the same step."""

    def __init__(
        self, runner: Runner, rows: Sequence[Row], saved: Sequence[tuple[SavedRow | None, int]] = (), tokens: int = 0
    ) -> None:
        """`saved`: what each row begins with, as `Runner.cache` takes it; `tokens`: of a row in the next forward."""
        self._runner, self.rows = runner, list(rows)
        self.cache = runner.cache([row.slot for row in rows], saved, tokens)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def left(self) -> int:
        """How many tokens of the longest prompt are still to be read."""
        return max(row.length - row.fed for row in self.rows)

    def piece(self, tokens: int) -> list[list[int]]:
        """The next ids of each row's prompt, at most `tokens` of them: a shorter prompt begins in a later piece."""
        left = self.left
        return [
            list(row.request.prompt[max(row.length - left, 0) : max(row.length - left + tokens, 0)])
            for row in self.rows
        ]

    def prefill(self, tokens: int) -> Tensor | None:
        """Read a piece of the prompts; `logits_BV` behind them where it is the last one."""
        logits_BV = self._runner.prefill(self.cache, self.piece(tokens), logits=tokens == self.left)
        self._count()
        return logits_BV

    def decode(self) -> Tensor:
        """`logits_BV` behind the newest token of every row."""
        logits_BV = self._runner.decode(self.cache, self._newest)
        self._count()
        return logits_BV

    def decode_with(self, other: Batch, tokens: int) -> tuple[Tensor, Tensor | None]:
        """`decode`, and `other.prefill(tokens)` in the same forward. Nothing has changed when it raises."""
        last = tokens == other.left
        found = self._runner.mixed(self.cache, self._newest, other.cache, other.piece(tokens), logits=last)
        self._count()
        other._count()
        return found

    @property
    def _newest(self) -> list[int]:
        return [row.out[-1] for row in self.rows]

    def _count(self) -> None:
        for place, row in enumerate(self.rows):
            row.fed = self.cache.length(place)

    def absorb(self, other: Batch) -> None:
        """Take over all rows of another batch, behind the ones here."""
        self.cache.join(other.cache)
        self.rows += other.rows

    def leave(self, row: Row, save: bool = False) -> SavedRow | None:
        """Drop a row; the last one takes its place. With `save`, a copy of its keys and values."""
        place = self.rows.index(row)
        saved = self.cache.save(place) if save else None
        self.cache.leave(place)
        last = self.rows.pop()
        if last is not row:
            self.rows[place] = last
        return saved
