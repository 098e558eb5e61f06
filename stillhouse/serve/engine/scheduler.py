"""The policy that decides which rows run next: a function of the waiting rows, the running rows, and the limits.

In: `Waiting` and `Running` rows as plain values. Out: the numbers of the waiting rows to admit now, in order. The
policy is fair between users: the next row belongs to the user with the fewest running rows, and among such users to the
one who came first. A row that does not fit is overtaken, but not for longer than `patience`; later arrivals then wait
for it. Memory is counted for the longest that every row may become, so that no admitted row has to be removed again.

This module does not know tensors, adapters' bytes or clocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A row in the queue."""

    number: int
    """What `plan` returns for it."""
    user: str | None
    """Whose it is; None counts as one user."""
    tokens: int
    """Tokens of prompt and answer at most."""
    adapter: Hashable = None
    """The key of its adapter; None: the base alone."""
    waited: float = 0.0
    """Seconds in the queue."""


@dataclass(frozen=True)
class Running:
    """A row that was admitted."""

    user: str | None
    """Whose it is; None counts as one user."""
    tokens: int
    """Tokens of prompt and answer at most."""
    adapter: Hashable = None
    """The key of its adapter; None: the base alone."""


@dataclass(frozen=True)
class Limits:
    """What may run at once."""

    rows: int
    """Rows."""
    tokens: int
    """Tokens with keys and values: the number of rows times the longest of them."""
    adapters: int
    """Distinct adapters."""
    patience: float = 2.0
    """Seconds that a row which does not fit may be overtaken. The default is that of the engine's settings."""


def plan(waiting: Sequence[Waiting], running: Sequence[Running], limits: Limits) -> tuple[int, ...]:
    """Numbers of the rows to admit, in order. `waiting` has to be in order of arrival."""
    rows, admitted, left = list(running), [], list(waiting)
    while left and len(rows) < limits.rows:
        fitting = [w for w in _up_to_overdue(left, rows, limits) if _fits(w, rows, limits)]
        if not fitting:
            break
        rows_of = Counter(row.user for row in rows)
        chosen = min(fitting, key=lambda w: rows_of[w.user])  # min takes the first of equals, who came first
        left.remove(chosen)
        admitted.append(chosen.number)
        rows.append(Running(chosen.user, chosen.tokens, chosen.adapter))
    return tuple(admitted)


def prefill_group(widths: Sequence[int], tokens: int) -> int:
    """How many prompts to read in one forward, at least one. `widths` has the unread tokens of each prompt, ascending.

    Every prompt is padded to the widest. With padding they may take at most `tokens` tokens, and at most twice the
    tokens without padding.
    """
    count, needed = 1, 0
    for n, width in enumerate(widths, 1):
        needed += width
        if n * width <= min(tokens, 2 * needed):
            count = n
    return count


def _up_to_overdue(waiting: list[Waiting], rows: list[Running], limits: Limits) -> list[Waiting]:
    """The rows that may be admitted: those before the first row that does not fit and may not be overtaken any more."""
    for place, row in enumerate(waiting):
        if row.waited >= limits.patience and not _fits(row, rows, limits):
            return waiting[:place]
    return waiting


def _fits(row: Waiting, rows: list[Running], limits: Limits) -> bool:
    if not rows:
        return True  # admission has checked that every row fits alone
    longest = max(row.tokens, *(r.tokens for r in rows))
    adapters = {r.adapter for r in rows if r.adapter is not None}
    return (
        len(rows) < limits.rows
        and (len(rows) + 1) * longest <= limits.tokens
        and (row.adapter is None or row.adapter in adapters or len(adapters) < limits.adapters)
    )
