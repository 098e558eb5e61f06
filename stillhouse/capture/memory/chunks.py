"""Statements become chunks that fit a teacher's context.

In: a memory's text and its statements (`text/statements.py`). Out: `Chunk`s of consecutive statements cut at turn and
sentence borders. A chunk repeats the statements before it only where its first one leans on them ("He", "It",
"That …").

It does not know any model: token counts come from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...records import Statement
from ...text.statements import statements as statements

_LEANS = re.compile(r"^(?:He|She|It|They|This|That|These|Those|His|Her|Its|Their|There|Then|So|And|But|Also)\b")


@dataclass(frozen=True)
class Chunk:
    """Consecutive statements with the text the teacher reads for them."""

    text: str
    statements: tuple[Statement, ...]


def chunks(text: str, found: Sequence[Statement], count: Callable[[str], int], limit: int) -> list[Chunk]:
    """Groups of statements whose text is at most `limit` tokens (a longer single statement stands alone)."""
    data = text.encode()

    def tokens(start: int, end: int) -> int:
        return count(data[start:end].decode())

    groups: list[list[Statement]] = []
    size = 0
    for statement in found:
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
    ready, seen = [], -1
    for group in groups:
        own = tuple(s for s in group if s.index > seen)
        seen = group[-1].index
        ready.append(Chunk(data[group[0].start : group[-1].end].decode(), own))
    return ready


def _overlap(before: list[Statement], statement: Statement) -> list[Statement]:
    """The statements before `statement` that it leans on: at most three, nearest last."""
    needed: list[Statement] = []
    current = statement
    for earlier in reversed(before[-3:]):
        if not _LEANS.match(current.text):
            break
        needed.insert(0, earlier)
        current = earlier
    return needed
