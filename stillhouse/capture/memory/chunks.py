"""Statements become chunks that fit a teacher's context.

In: a memory's text and its statements (`text/statements.py`). Out: `MemoryChunk`s of consecutive statements, cut at the
borders of turns and sentences. A chunk repeats the statements before it only where its first one leans on them ("He",
"It", "That …").

It does not know any model: token counts come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...records import Statement
from ...text.language import leans_back

MOST_REPEATED = 3  # statements of the chunk before


@dataclass(frozen=True)
class MemoryChunk:
    """Consecutive statements, and the text that the teacher reads for them."""

    text: str
    statements: tuple[Statement, ...]


def chunks(text: str, statements: Sequence[Statement], count: Callable[[str], int], limit: int) -> list[MemoryChunk]:
    """Every statement in exactly one chunk, whose text has at most `limit` tokens.

    `count` gives the tokens of a text. A single statement that is longer than `limit` stands alone.
    """
    data = text.encode()

    def tokens(start: int, end: int) -> int:
        return count(data[start:end].decode())

    groups: list[list[Statement]] = []
    size = 0
    for statement in statements:
        added = tokens(groups[-1][-1].end, statement.end) if groups else 0
        if groups and size + added <= limit:
            groups[-1].append(statement)
            size += added
            continue
        group = [*_overlap(groups[-1] if groups else [], statement), statement]
        while len(group) > 1 and tokens(group[0].start, statement.end) > limit:
            group.pop(0)  # better without what it leans on than over the limit
        groups.append(group)
        size = tokens(group[0].start, statement.end)
    result, last = [], -1
    for group in groups:
        own = tuple(s for s in group if s.index > last)
        last = group[-1].index
        result.append(MemoryChunk(data[group[0].start : group[-1].end].decode(), own))
    return result


def _overlap(before: list[Statement], statement: Statement) -> list[Statement]:
    """The statements of the chunk before that `statement` leans on, at most `MOST_REPEATED`, nearest last."""
    needed: list[Statement] = []
    current = statement
    for earlier in reversed(before[-MOST_REPEATED:]):
        if not leans_back(current.text):
            break
        needed.insert(0, earlier)
        current = earlier
    return needed
