"""Headings, and where lines stand under them.

In: lines. Out: the heading that stands at one, with its level; `Scope`s. A heading is known by its marks, by a line of
signs below it, by bold or capital letters alone on a line, by brackets above settings, or as a date alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...records import Context
from .chat import NOBODY, Voices
from .dates import dated, day
from .fields import field_of
from .inline import shown
from .lines import Line
from .pieces import HEADING, NOWHERE, RULE, Piece, count_words, left

ATX = re.compile(r"\s{0,3}(?P<mark>#{1,6}|={2,6})[ \t]+(?=\S)")
_UNDERLINE = re.compile(r"\s{0,3}(?:={2,}|-{2,}|~{3,})\s*")
_SECTION = re.compile(r"\[{1,2}[\w .:\"/-]{1,80}\]{1,2}")
_BOLD = re.compile(r"(?:\*\*|__)(?=\S)[^*\n]{1,120}(?:\*\*|__):?")
ITEM = re.compile(
    r"\s*(?:(?:[-*+•‣◦▪▫■□●○–—·→➤➔►▶✓✔✗✘☐☑☒⁃※❖◆◇]|\(?\d{1,3}[.)]\)?|\(?[A-Za-z]\)|\(?[ivxIVX]{1,5}\)|[①-⑳])\s+"
    r"|[•‣◦▪●○➤✓✔☐☑①-⑳]\s*|\d{1,3}[、．]\s*)(?=\S)"
)
_ORDINAL = re.compile(r"\s*\d{1,2}\.\s+[^\W\d_]{3,}")
SENTENCE = re.compile(r"[.!?。！？…][\"'”’)*_]*$")
LONGEST_HEADING = 12  # words of a heading above a line of signs


@dataclass(frozen=True)
class Scope:
    """Where lines stand."""

    context: Context = NOWHERE
    voices: Voices = NOBODY
    chat: bool = False
    """Whether they are a message."""
    depth: int = 0

    def under(self, *headings: str) -> Scope:
        """The same below some headings."""
        context = replace(self.context, headings=(*self.context.headings, *(h for h in headings if h)))
        return replace(self, context=context, depth=self.depth + 1)


@dataclass
class Headings:
    """The headings that a line stands under, by their levels."""

    outer: Scope
    levels: dict[int, str] = field(default_factory=dict)
    dates: dict[int, str] = field(default_factory=dict)

    def put(self, level: int, words: str) -> None:
        """A heading of a level: it ends those of its level and below."""
        for kept in (self.levels, self.dates):
            for deeper in [other for other in kept if other >= level]:
                del kept[deeper]
        date, rest = dated(words)
        if date:
            self.dates[level] = date
        if rest:
            self.levels[level] = rest

    def scope(self) -> Scope:
        """Where what follows stands."""
        date = self.dates[max(self.dates)] if self.dates else self.outer.context.date
        scope = self.outer.under(*(self.levels[level] for level in sorted(self.levels)))
        return replace(scope, context=replace(scope.context, date=date), depth=self.outer.depth)


def heading(lines: Sequence[Line], i: int) -> tuple[int, str, int] | None:
    """(level, words, the line behind it) of a heading at line `i`."""
    line, below = lines[i], lines[i + 1] if i + 1 < len(lines) else Line(0, "")
    if (match := ATX.match(line.text)) is not None:
        words = shown(line.text[match.end() :].rstrip().rstrip("#=").rstrip())
        return (len(match["mark"]), words, i + 1) if re.search(r"\w", words) else None
    text = line.bare
    if _UNDERLINE.fullmatch(below.text) and _is_title(line):
        return (1 if "=" in below.bare else 2), shown(text), i + 2
    if _SECTION.fullmatch(text) and below.bare and field_of(below.bare) is not None:
        return 7, text.strip('[] "'), i + 1
    alone = i == 0 or not lines[i - 1].bare
    if _BOLD.fullmatch(text) and alone and (below.bare or i + 2 < len(lines)) and field_of(text) is None:
        return (8, shown(text).rstrip(":"), i + 1) if not SENTENCE.search(shown(text)) else None
    if text.isupper() and alone and below.bare and not below.bare.isupper() and _is_title(line) and len(text) > 3:
        return 8, shown(text).rstrip(":"), i + 1
    if alone and len(text) < 60 and day(text):
        return 9, text, i + 1
    return None


def _is_title(line: Line) -> bool:
    """Whether a line can be a heading: short, and no sentence, field or point of a list."""
    text = line.bare
    return (
        0 < count_words(text) <= LONGEST_HEADING
        and line.indent < 4
        and not SENTENCE.search(text)
        and not is_item(line)
        and "|" not in text
        and (field_of(text) is None or text.endswith(":"))
    )


def heading_pieces(lines: Sequence[Line], words: str, scope: Scope) -> Iterator[Piece]:
    """A heading is left out, unless it is a whole sentence."""
    sentence = SENTENCE.search(words) and count_words(words) > 2 and not words.endswith("?")
    first, last = lines[0], lines[-1]
    if sentence:
        match = ATX.match(first.text)
        yield Piece(first.start + match.end() if match else first.first, first.end, words, scope.context)
    else:
        yield left(first.first, first.end, HEADING)
    if last is not first:
        yield left(last.first, last.end, RULE)


def is_item(line: Line) -> bool:
    """Whether a line is a point of a list; "3. Mai" begins no list."""
    return ITEM.match(line.text) is not None and not (_ORDINAL.match(line.text) and _day_of_month(line.bare))


def _day_of_month(text: str) -> bool:
    """Whether a text begins with an ordinal and a month: "3. Mai"."""
    return bool(day(" ".join(text.split()[:2])))
