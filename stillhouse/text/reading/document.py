"""A whole memory becomes pieces, by what it is: a page of HTML, data, or text with blocks.

In: the text of a memory. Out: `Piece`s in no certain order; some may lie in others. Markup of chat templates, and what
a template's system or assistant turn holds, is taken out before anything is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from . import markup
from .chat import voices_of
from .fields import field_of, lead
from .headings import Scope
from .inline import CHAT_TOKEN
from .lines import Line, lines
from .outline import outline
from .pieces import CHAT_MARKUP, NOWHERE, RULE, Piece, left

_FOREIGN_TURN = re.compile(
    r"<\|im_start\|>\s*(?:system|assistant|tool)\b.*?(?:<\|im_end\|>|\Z)"
    r"|<\|start_header_id\|>\s*(?:system|assistant|tool)\s*<\|end_header_id\|>.*?(?:<\|eot_id\|>|\Z)"
    r"|<start_of_turn>\s*(?:model|system)\b.*?(?:<end_of_turn>|\Z)|<<SYS>>.*?(?:<</SYS>>|\Z)"
    r"|<\|(?:system|assistant)\|>.*?(?:<\|(?:user|end)\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_ROLE_TOKEN = re.compile(rf"(?:{CHAT_TOKEN.pattern})(?:\s*(?:user|human)\b\s*\n?)?", re.IGNORECASE)
LONGEST_FRONT_MATTER = 500  # lines


def pieces(text: str) -> Iterator[Piece]:
    """The pieces of a memory."""
    text, foreign = _without_chat_markup(text)
    yield from foreign
    if markup.is_document(text):
        yield from markup.pages(text, 0, NOWHERE)
        return
    rows = lines(text)
    count, front = _front_matter(rows)
    yield from front
    yield from outline(rows[count:], Scope(voices=voices_of(rows[count:])))


def _without_chat_markup(text: str) -> tuple[str, list[Piece]]:
    """The text with spaces where markup of chat templates stood, and that markup."""
    if not CHAT_TOKEN.search(text):
        return text, []
    taken_out: list[Piece] = []

    def blank(match: re.Match[str]) -> str:
        taken_out.append(left(match.start(), match.end(), CHAT_MARKUP))
        return re.sub(r"[^\n]", " ", match[0])

    for pattern in (_FOREIGN_TURN, _ROLE_TOKEN):
        text = pattern.sub(blank, text)
    return text, taken_out


def _front_matter(rows: list[Line]) -> tuple[int, Iterator[Piece]]:
    """(lines, pieces) of the settings between two rules at the beginning of a text."""
    none: tuple[int, Iterator[Piece]] = (0, iter(()))
    mark = rows[0].bare if rows else ""
    if mark not in ("---", "+++"):
        return none
    ends = (n for n, row in enumerate(rows[1:LONGEST_FRONT_MATTER], 1) if row.bare in (mark, "..."))
    end = next(ends, None)
    if end is None:
        return none
    inner = [row for row in rows[1:end] if row.bare]
    if not inner or (field_of(inner[0].bare) is None and not lead(inner[0].bare)):
        return none
    marks = [left(row.first, row.end, RULE) for row in (rows[0], rows[end])]
    return end + 1, chain(marks, outline(rows[1:end], Scope()))
