"""A memory's text becomes statements: sentences, fields, rows, messages, each with its place in the text and context.

In: UTF-8 text in any layout that people write in (`reading/`). Out: a `Reading`: `Statement`s with their byte spans, in
order, what is left out with the reason, and which statements a later one replaces. Every byte that is no space is in a
statement or left out. A sentence that reads like an order to a model is marked as one. What is said twice is taken
once. This module does not know models.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..records import LeftOut, Reading, Statement
from .language import ORDER
from .reading.document import pieces
from .reading.inline import TAG
from .reading.pieces import MARKUP, SHORT, Piece
from .updates import Slot, updates

_WORDS = re.compile(r"\w")


def read(text: str) -> Reading:
    """All of a memory: its statements in order, with byte offsets into its UTF-8 form, and what is in none."""
    parts = list(_filled(text, _disjoint(pieces(text))))
    places = _Bytes(text)
    taken: list[Statement] = []
    left_out: list[LeftOut] = []
    slots: list[Slot] = []
    lines: dict[tuple[object, ...], int] = {}
    for part in parts:
        start, end = places.of(part.start), places.of(part.end)
        key = (" ".join(part.text.casefold().rstrip(".!").split()), part.context.headings, part.context.speaker)
        if part.reason:
            left_out.append(LeftOut(start, end, part.reason))
        elif key in lines:
            left_out.append(LeftOut(start, end, f"said twice; see line {lines[key]}"))
        else:
            lines[key] = places.line(part.start)
            order = ORDER.search(part.text) is not None
            taken.append(Statement(len(taken), start, end, part.text, order, part.context))
            slots.append(Slot(part.key, part.value, part.row, part.row and part.value == part.text))
    return Reading(tuple(taken), tuple(left_out), updates(taken, slots))


def statements(text: str) -> list[Statement]:
    """The statements of `read`."""
    return list(read(text).statements)


def line_of(text: str, start: int) -> int:
    """The number of the line, from 1, on which byte `start` of a memory stands."""
    return text.encode()[:start].count(b"\n") + 1


class _Bytes:
    """Bytes before a character of a text, and the number of its line; asked in any order."""

    STEP = 4096

    def __init__(self, text: str) -> None:
        self.text, self.ascii = text, text.isascii()
        self.blocks = [0]
        for at in range(0, len(text), self.STEP):
            self.blocks.append(self.blocks[-1] + len(text[at : at + self.STEP].encode()))
        self.breaks = [match.start() for match in re.finditer("\n", text)]

    def of(self, character: int) -> int:
        """Bytes before a character."""
        if self.ascii:
            return character
        block = character // self.STEP
        return self.blocks[block] + len(self.text[block * self.STEP : character].encode())

    def line(self, character: int) -> int:
        """The number of a character's line, from 1."""
        return bisect_right(self.breaks, character - 1) + 1


def _disjoint(parts: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces in order, none of them in another; a statement goes before what is left out within it."""
    end = 0
    for part in sorted(parts, key=lambda piece: (piece.start, bool(piece.reason), -piece.end)):
        start = max(part.start, end)
        if start < part.end:
            yield part if start == part.start else replace(part, start=start)
            end = part.end


def _filled(text: str, parts: Sequence[Piece] | Iterator[Piece]) -> Iterator[Piece]:
    """The pieces, and what stands between them: marks of the layout."""
    at = 0
    for part in parts:
        yield from _gap(text, at, part.start)
        yield part
        at = part.end
    yield from _gap(text, at, len(text))


def _gap(text: str, start: int, end: int) -> Iterator[Piece]:
    for match in re.finditer(r"\S(?:[^\n]*\S)?", text[start:end]):
        reason = SHORT if re.search(r"[^\W\d_]{2}", TAG.sub(" ", match[0])) else MARKUP
        yield Piece(start + match.start(), start + match.end(), reason=reason)
