"""HTML becomes pieces: its text, by blocks; headings, lists and tables as context; scripts and tags are left out.

In: text with HTML in it, and where it stands in the memory. Out: `Piece`s. Python's own parser reads it, so tags that
are never closed do no harm. It does not know styles: what a page hides is read too.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

from ...records import Context
from .inline import shown
from .lines import Joined
from .pieces import HEADING, IMAGE, SCRIPT, SHORT, Piece, count_words, left
from .prose import texts

BLOCKS = frozenset(
    (
        "address article aside blockquote body br center dd details dialog div dl dt fieldset figcaption figure "
        "footer form h1 h2 h3 h4 h5 h6 head header hr html li main nav ol option p pre section summary table tbody td "
        "textarea tfoot th thead title tr ul"
    ).split()
)
HIDDEN = frozenset("script style template noscript svg math object iframe select".split())
CODE = frozenset(("pre", "textarea"))
UNENDED = "HTML whose tags do not end"
_DOCUMENT = re.compile(r"\s*(?:<!doctype\s+html|<html\b|<\?xml|<head\b|<body\b)", re.IGNORECASE)
_BLOCK = re.compile(
    rf"\s{{0,3}}(?:<(?:/)?(?:{'|'.join(sorted(BLOCKS | HIDDEN))})(?:\s[^<>]*)?/?>|<!--|<!doctype)", re.IGNORECASE
)
_LEVELS = {f"h{n}": n for n in range(1, 7)}


def is_document(text: str) -> bool:
    """Whether a text is a page of HTML."""
    return _DOCUMENT.match(text[:2000]) is not None and _closes(text)


def _closes(text: str) -> bool:
    """Whether most tags end: the parser's time is not linear in tags and comments that do not."""
    return text.count("<") <= 2 * text.count(">") + 50 and text.count("<!--") <= text.count("-->") + 5


def begins_block(line: str) -> bool:
    """Whether a line begins a block of HTML inside other text."""
    return "<" in line and _BLOCK.match(line) is not None


@dataclass
class _Cell:
    text: str = ""
    span: tuple[int, int] | None = None
    head: bool = False


@dataclass
class _Reader(HTMLParser):
    """Collects text by block. `base`: where the text begins in the memory."""

    text: str
    base: int
    context: Context
    pieces: list[Piece] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    parts: list[tuple[int, int, str]] = field(default_factory=list)
    levels: dict[int, str] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)
    item: str = ""
    rows: list[list[_Cell]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    term: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def at(self) -> int:
        """The character that the parser is at."""
        line, column = self.getpos()
        return self.starts[line - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            place = self.base + self.at()
            self.pieces.append(left(place, place + len(self.get_starttag_text() or "<img>"), IMAGE))
        if tag in BLOCKS:
            self.flush(self.stack[-1] if self.stack else "")
        if tag in ("ul", "ol"):
            self.parents.append(self.item if "li" in self.stack else "")
        if tag not in ("br", "img", "hr", "input", "meta", "link", "col", "source", "wbr", "area", "embed", "track"):
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag == "table":
            self.columns = []
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append(_Cell(head=tag == "th"))

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.flush(tag)
        if tag in self.stack:
            while self.stack and self.stack.pop() != tag:
                pass
        if tag in ("ul", "ol") and self.parents:
            self.parents.pop()
        elif tag == "tr" and self.rows:
            self.pieces += self.row(self.rows.pop())
        elif tag == "table":
            self.columns = []

    def handle_data(self, data: str) -> None:
        self.add(data, len(data))

    def handle_entityref(self, name: str) -> None:
        self.entity(f"&{name}")

    def handle_charref(self, name: str) -> None:
        self.entity(f"&#{name}")

    def entity(self, raw: str) -> None:
        at = self.at()
        length = len(raw) + (self.text[at + len(raw) : at + len(raw) + 1] == ";")
        self.add(html.unescape(raw + ";"), length)

    def add(self, data: str, length: int) -> None:
        """Text that takes `length` characters of the source."""
        start = self.base + self.at()
        hidden = next((tag for tag in self.stack if tag in HIDDEN or tag in CODE), "")
        if hidden:
            if data.strip():
                self.pieces.append(left(start, start + length, SCRIPT if hidden in HIDDEN else "code"))
        else:
            self.parts.append((start, start + length, data))

    def handle_comment(self, data: str) -> None:
        if re.search(r"\w", data):
            start = self.base + self.at()
            self.pieces.append(left(start, start + len(data) + 7, "a comment"))

    def here(self) -> Context:
        """Where a text stands now."""
        headings = (*(self.levels[level] for level in sorted(self.levels)), *(p for p in self.parents if p))
        return replace(self.context, headings=(*self.context.headings, *headings))

    def flush(self, tag: str) -> None:
        """What was collected is one block, of the innermost tag."""
        parts, self.parts = self.parts, []
        joined = _joined(parts)
        if not joined.text.strip():
            return
        span = joined.span(0, len(joined.text))
        level = next((_LEVELS[open_] for open_ in self.stack if open_ in _LEVELS), 0)
        if level or tag == "title" or "title" in self.stack:
            if level:
                self.levels = {n: words for n, words in self.levels.items() if n < level} | {level: shown(joined.text)}
            self.pieces.append(left(*span, HEADING))
        elif self.rows and any(cell in self.stack for cell in ("td", "th")) and self.rows[-1]:
            cell = self.rows[-1][-1]
            cell.text = f"{cell.text} {shown(joined.text)}".strip()
            cell.span = (cell.span[0] if cell.span else span[0], span[1])
        elif "dt" in self.stack:
            self.term = shown(joined.text)
            self.pieces.append(left(*span, HEADING))
        else:
            self.block(joined)

    def block(self, joined: Joined) -> None:
        context = self.here()
        if self.term and "dd" in self.stack:
            context = replace(context, headings=(*context.headings, self.term))
        self.pieces += texts(joined, context)
        self.item = shown(joined.text) if "li" in self.stack else ""

    def row(self, cells: list[_Cell]) -> Iterator[Piece]:
        """A row of a table."""
        spans = [cell.span for cell in cells if cell.span]
        if not spans:
            return
        place = (min(a for a, _ in spans), max(b for _, b in spans))
        if all(cell.head for cell in cells) and not self.columns and len(cells) > 1:
            self.columns = [cell.text for cell in cells]
            yield left(*place, HEADING)
            return
        filled = [
            (self.columns[i] if i < len(self.columns) else "", cell.text) for i, cell in enumerate(cells) if cell.text
        ]
        two = len(cells) == 2
        text = ": ".join(t for _, t in filled) if two else "; ".join(f"{c}: {t}" if c else t for c, t in filled)
        short = len(filled) < 2 and count_words(text) < 3
        yield (
            left(*place, SHORT)
            if short
            else Piece(*place, text, self.here(), "", filled[0][1], filled[-1][1] if two else text, row=True)
        )


def pages(text: str, offset: int, context: Context) -> list[Piece]:
    """The pieces of HTML that begins at character `offset` of the memory."""
    if not _closes(text):
        return [left(offset + match.start(), offset + match.end(), UNENDED) for match in re.finditer(r"\S[^\n]*", text)]
    reader = _Reader(text, offset, context)
    reader.feed(text)
    reader.close()
    reader.flush("")
    return sorted(reader.pieces, key=lambda piece: (piece.start, piece.end))


def _joined(parts: list[tuple[int, int, str]]) -> Joined:
    """Text with its places; every space of it is one."""
    at: list[int] = []
    size = 0
    for _, _, data in parts:
        at.append(size)
        size += len(data)
    whole = re.sub(r"\s", " ", "".join(data for _, _, data in parts))
    joined = Joined(whole, tuple(at), tuple((start, end) for start, end, _ in parts))
    bare = whole.strip()
    first = whole.find(bare) if bare else 0
    return joined.piece(first, first + len(bare))
