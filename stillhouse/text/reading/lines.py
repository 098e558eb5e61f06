"""Lines of a memory that know where they stand, and lines joined to one text that still does.

In: text. Out: `Line`s without their line breaks, and `Joined` text whose spans lead back to the memory's characters. A
soft break of a word processor (U+2028) is a space within a line. It knows no layout.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

TAB = 4
_BREAK = re.compile(r"\r\n|[\n\r\f\u2029]")
_SIGN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f"
_UNSPACED = re.compile(rf"[{_SIGN}]\n[{_SIGN}]")


@dataclass(frozen=True)
class Line:
    """A line, or what is left of it behind the marks at its left."""

    start: int
    """Character of the memory at which `text` begins."""
    text: str

    @cached_property
    def bare(self) -> str:
        """The text without the space around it."""
        return self.text.strip()

    @cached_property
    def indent(self) -> int:
        """Columns before the text."""
        columns = 0
        for char in self.text:
            if not char.isspace():
                break
            columns += TAB - columns % TAB if char == "\t" else 1
        return columns

    @property
    def end(self) -> int:
        """Character behind the text, the space at its end not counted."""
        return self.start + len(self.text.rstrip())

    @property
    def first(self) -> int:
        """Character of the first sign of the text."""
        return self.start + len(self.text) - len(self.text.lstrip())

    def behind(self, characters: int) -> Line:
        """The line behind some characters of it."""
        return Line(self.start + characters, self.text[characters:])


def lines(text: str, start: int = 0) -> list[Line]:
    """The lines of a text that begins at character `start` of the memory."""
    cuts = [(0, 0), *(match.span() for match in _BREAK.finditer(text)), (len(text), len(text))]
    return [Line(start + a, text[a:b]) for (_, a), (b, _) in pairwise(cuts)]


@dataclass(frozen=True)
class Joined:
    """One text made of spans of the memory."""

    text: str
    at: tuple[int, ...]
    """Where each part begins in `text`."""
    source: tuple[tuple[int, int], ...]
    """The span of the memory that each part is."""

    @classmethod
    def of(cls, parts: Sequence[Line]) -> Joined:
        """The lines, without the space around them, with a space between two; none between signs of a script without
        spaces."""
        bare = [Line(line.first, line.bare) for line in parts if line.bare]
        pieces: list[str] = []
        at: list[int] = []
        size = 0
        for number, line in enumerate(bare):
            if number and not _UNSPACED.fullmatch(f"{bare[number - 1].text[-1]}\n{line.text[0]}"):
                pieces.append(" ")
                size += 1
            at.append(size)
            pieces.append(line.text)
            size += len(line.text)
        return cls("".join(pieces), tuple(at), tuple((line.start, line.start + len(line.text)) for line in bare))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the memory that `text[start:end]` came from."""
        return self._place(start), self._place(end - 1, last=True)

    def _place(self, index: int, last: bool = False) -> int:
        part = max(0, bisect_right(self.at, index) - 1)
        first, end = self.source[part]
        following = self.at[part + 1] if part + 1 < len(self.at) else len(self.text)
        if last and index == following - 1:  # an entity is longer than what it shows
            return end
        return min(first + index - self.at[part] + last, end)

    def piece(self, start: int, end: int) -> Joined:
        """The part of it between two places."""
        ends = [*self.at[1:], len(self.text)][: len(self.at)]
        keep = [n for n, (at, stop) in enumerate(zip(self.at, ends, strict=True)) if at < end and stop > start]
        sources = [(self._place(max(self.at[n], start)), self.source[n][1]) for n in keep]
        return Joined(self.text[start:end], tuple(max(0, self.at[n] - start) for n in keep), tuple(sources))
