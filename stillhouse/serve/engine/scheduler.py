"""Policy: who runs next. A pure function of what waits, what runs, and the limits.

In: `Waiting` and `Running` rows as plain values. Out: `Plan`: which waiting rows to admit now, in order. Fair between
users: the next row is of the user with the fewest rows running, the one who came first among equals. A row that does
not fit is passed over, but not for longer than `patience`: then nobody younger goes before it. Memory is counted for
the worst case, when every row is as long as it may become, so that no admitted row has to be thrown out again.

It does not know tensors, adapters' bytes or clocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A row that wants to run: `tokens` at most, prompt and answer together; `adapter` None is the base alone."""

    number: int
    user: str | None
    tokens: int
    adapter: Hashable = None
    waited: float = 0.0  # seconds


@dataclass(frozen=True)
class Running:
    """A row that runs."""

    user: str | None
    tokens: int
    adapter: Hashable = None


@dataclass(frozen=True)
class Limits:
    """What fits: `rows` at once, `tokens` of keys and values (rows x the longest of them), distinct `adapters`."""

    rows: int
    tokens: int
    adapters: int
    patience: float = 2.0


def plan(waiting: Sequence[Waiting], running: Sequence[Running], limits: Limits) -> tuple[int, ...]:
    """Numbers of the rows to admit, in order. `waiting` is in order of arrival."""
    rows, admitted, left = list(running), [], list(waiting)
    while left and len(rows) < limits.rows:
        fitting = [w for w in _before_the_patient(left, rows, limits) if _fits(w, rows, limits)]
        if not fitting:
            break
        having = Counter(row.user for row in rows)
        chosen = min(fitting, key=lambda w: having[w.user])  # the first of equals: order of arrival
        left.remove(chosen)
        admitted.append(chosen.number)
        rows.append(Running(chosen.user, chosen.tokens, chosen.adapter))
    return tuple(admitted)


def together(widths: Sequence[int], tokens: int) -> int:
    """How many prompts, ascending in what is still to be read of them, to read in one forward: at least one.

    All are read as wide as the widest; that may cost at most `tokens`, and at most twice what they need.
    """
    count, needed = 1, 0
    for n, width in enumerate(widths, 1):
        needed += width
        if n * width <= min(tokens, 2 * needed):
            count = n
    return count


def _before_the_patient(waiting: list[Waiting], rows: list[Running], limits: Limits) -> list[Waiting]:
    """Those who may go now: everyone up to the first who has waited too long to be passed over."""
    for place, row in enumerate(waiting):
        if row.waited >= limits.patience and not _fits(row, rows, limits):
            return waiting[:place]
    return waiting


def _fits(row: Waiting, rows: list[Running], limits: Limits) -> bool:
    if not rows:
        return True  # alone, everything runs that was let in
    longest = max(row.tokens, *(r.tokens for r in rows))
    adapters = {r.adapter for r in rows if r.adapter is not None}
    return (
        len(rows) < limits.rows
        and (len(rows) + 1) * longest <= limits.tokens
        and (row.adapter is None or row.adapter in adapters or len(adapters) < limits.adapters)
    )
