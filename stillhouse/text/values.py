"""Values are whole spans: where names, dates, numbers, addresses begin and end, so that nobody cuts one.

In: a text, and places in it. Out: the `Atom`s of the text, and whether a span is a whole value.

- `atoms(text)`: spans that must never be cut, sorted and disjoint. A splitter of sentences uses them so: a sentence
  never ends at a place `p` with `atom.start < p < atom.end`. A full stop that is the last character of an atom of the
  kind "abbreviation" ("e.g.") ends no sentence either; behind any other atom it ends one as it would anywhere. Atoms
  reach over a line's end only behind a title or an initial. The time is linear in the text.
- `is_whole`, `whole_span`, `widen`: for those who check that an answer is the whole of a value.

A value also begins and ends where a word does (as spaces part words, or the script does), so a single word or a phrase
is whole and no atom. Signs at the edge of a word, such as quotes and full stops, may be part of a span or not.

It does not know what a text means, nor which language it is in: the words it knows stand in `value_words.txt`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from .names import name
from .value_shapes import UNSPACED, shapes
from .value_words import pattern, words

LONGEST_KEPT = 4096  # characters of a text whose atoms are kept
MOST_SIGNS = 8  # quotes, brackets and the like at one edge of a word
OPENING = "\"'“”„«‘‹([{<*_¿¡`"
CLOSING = ".,;:!?\"'”“’»›)]}>*_`"
_EDGES = OPENING + CLOSING
_PARTS = set("—…|、。，！？；：・（）「」『』《》〈〉【】،؛؟।")  # they part words without a space
_UNSPACED = re.compile(f"[{UNSPACED}]")
_KATAKANA = re.compile(r"[ァ-ヺー・]")
_ATTACHED = re.compile(rf"{pattern('attached')}{{1,3}}(?!\w)")
_ELISION = re.compile(r"(?:^|[^\w'’])[^\W\d_]{1,5}['’]$")
_NUMBERED = re.compile(r"[^\S\n](?:(?:no|nr|nº)\.?\s)?\d", re.IGNORECASE)
_CANDIDATE = re.compile(
    rf"(?<![\w'’])[^\W_]|(?<=[{UNSPACED}])[\dA-Za-z]|(?<!\w)[@#+\-−±(/~\\.$€£¥₹₽₩₺฿₫₴₪\"“„«‘']|[『「《]|(?<=['’(\"“„*_])\w"
)
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Atom:
    """A span of characters that belong together, and what it is: "email", "date", "name", ..."""

    start: int
    end: int
    kind: str
    inner: int = -1  # a later place where the value may begin as well: "Bob" of "Uncle Bob"; -1: none
    sure: bool = True  # whether the value ends here; False: it may go on ("dr. amara okafor")


def atoms(text: str) -> list[Atom]:
    """The spans of `text` that must never be cut, sorted and disjoint."""
    return list(_kept(text) if len(text) <= LONGEST_KEPT else _scan(text))


def is_whole(text: str, start: int, end: int) -> bool:
    """Whether the span begins and ends where values do: in no atom, in no word, not before the rest of a name."""
    start, end = _core(text, start, end)
    if start >= end or not _begins(text, start) or not _ends(text, end):
        return False
    if any(_cuts(text, atom, start, end) for atom in _near(text, start, end)):
        return False
    return not (text[end - 1].isalpha() and _NUMBERED.match(text, end) and _is_capital(text, start, end))


def whole_span(text: str, value: str) -> tuple[int, int] | None:
    """Where `value` stands in `text` as a whole span: the first such place; None where there is none.

    Case, the kind of quotes and dashes, the width of spaces, and signs at the edges make no difference.
    """
    return next((span for span in _places(text, value) if is_whole(text, *span)), None)


def widen(text: str, start: int, end: int) -> tuple[int, int]:
    """The smallest whole span around a span. It ends at the ends of the text at the latest."""
    start, end = _core(text, min(max(start, 0), len(text)), end)
    end = max(start, end)
    for _ in range(8):  # every turn reaches over a word or an atom; values have few of them
        before = (start, end)
        for atom in _near(text, start, end):
            if _cuts(text, atom, start, end):
                start, end = min(start, atom.start), max(end, atom.end)
        while start > 0 and not _begins(text, start):
            start -= 1
        while end < len(text) and not _ends(text, end):
            end += 1
        if (number := _NUMBERED.match(text, end)) and _is_capital(text, start, end):
            end = number.end()
        if (start, end) == before:
            break
    return start, end


def widened(text: str, value: str) -> str | None:
    """`value` as the whole value that it stands in, as `text` writes it; None where it stands in none or in several."""
    spans = list(_places(text, value))
    if (whole := next((span for span in spans if is_whole(text, *span)), None)) is not None:
        return text[slice(*whole)]
    wide = {widen(text, *span) for span in spans}
    sure = all(atom.sure for span in wide for atom in _near(text, *span))
    values = {text[slice(*span)] for span in wide}
    return values.pop() if sure and len(values) == 1 else None


@lru_cache(maxsize=512)
def _kept(text: str) -> tuple[Atom, ...]:
    return tuple(_scan(text))


def _scan(text: str) -> Iterator[Atom]:
    """Every atom of `text`, from left to right; of those that begin at one place, the longest."""
    end, line_end, nouns, capitals = 0, -1, False, False
    for candidate in _CANDIDATE.finditer(text):
        start = candidate.start()
        if start < end:
            continue
        if start > line_end:
            line_end = text.find("\n", start) % (len(text) + 1)
            nouns, capitals = _line_kind(text[max(0, text.rfind("\n", 0, start)) : line_end])
        if not _begins(text, start):
            continue
        atom = _longest(text, start, nouns, capitals)
        if atom is not None:
            end = atom.end
            yield atom


def _line_kind(line: str) -> tuple[bool, bool]:
    """Whether a line is in a language that writes nouns with capital letters, and whether it has small letters."""
    small = [word for word in _LETTERS.findall(line) if word.islower()]
    nouns = len(words("noun capitals") & set(small)) >= 2 - (len(small) < 4)
    return nouns, any(map(str.islower, line))


def _longest(text: str, start: int, nouns: bool, capitals: bool) -> Atom | None:
    for end, kind in shapes(text, start):
        span = _shape(text, start, end, kind)
        if span is not None:
            named = name(text, start, nouns) if text[start].isalpha() and capitals else None
            return (
                span if named is None or named.end <= end else Atom(start, named.end, "name", named.inner, named.sure)
            )
    if not text[start].isalpha() or not capitals:
        return None
    named = name(text, start, nouns)
    if named is None or not _ends(text, named.end):
        return None
    inner = _behind_noun(text, start) if nouns else named.inner
    return Atom(start, named.end, "name", inner if inner > start else -1, named.sure)


def _shape(text: str, start: int, end: int, kind: str) -> Atom | None:
    """A shape as an atom, where it ends with a word; a single number is none, nor is a long quotation."""
    if kind == "quotation":
        inner = text[start + 1 : end - 1]
        return Atom(start + 1, end - 1, kind) if inner.strip() == inner and _is_title(inner) else None
    if kind == "abbreviation":
        return Atom(start, end, kind)
    while kind in ("date", "phone", "number") and end > start and text[end - 1] in ".,- ":
        end -= 1
    if not _ends(text, end) or end - start < 2 or (kind == "phone" and not _is_phone(text[start:end])):
        return None
    return Atom(start, end, kind)


def _is_title(inner: str) -> bool:
    count = len(inner.split()) + len(_UNSPACED.findall(inner)) // 4
    return (1 < count <= 4) or (1 < count <= 8 and inner[0].isupper() and not re.search(r"[.!?]\s", inner))


def _is_phone(shape: str) -> bool:
    """Groups of digits that belong together: a trunk or country code, or three groups, or a dash between them."""
    digits = sum(c.isdigit() for c in shape)
    groups = len(re.findall(r"\d+", shape))
    return digits >= 6 and (shape[0] in "+(0" or groups >= 3 or "-" in shape)


def _behind_noun(text: str, start: int) -> int:
    """Where a name begins whose first word is a noun behind an article: "meine Schwester Quelia"."""
    before = text[max(0, start - 12) : start].split()
    first = _LETTERS.match(text, start)
    if first is None or not before or before[-1].lower() not in words("determiners"):
        return -1
    return first.end() + 1


def _core(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without space and quotes at its edges; a span of signs alone stays."""
    start, end = max(0, start), min(len(text), end)
    first, last = start, end
    while first < last and (text[first].isspace() or text[first] in OPENING):
        first += 1
    while last > first and (text[last - 1].isspace() or text[last - 1] in CLOSING):
        last -= 1
    return (first, last) if first < last else (start, end)


def _near(text: str, start: int, end: int) -> list[Atom]:
    """The atoms that share a character with the span, or end where it begins."""
    reaching = _kept(text) if len(text) <= LONGEST_KEPT else tuple(_scan(text))
    first = bisect_right(reaching, start, key=lambda atom: atom.end)
    last = bisect_right(reaching, end - 1, key=lambda atom: atom.start)
    return list(reaching[first:last])


def _cuts(text: str, atom: Atom, start: int, end: int) -> bool:
    """Whether the span has a part of the atom and not all of it, but for signs at the atom's edges."""
    first, last = _core(text, atom.start, atom.end)
    covered = start <= first and end >= last
    return not covered and not (start == atom.inner and end >= last)


def _begins(text: str, at: int) -> bool:
    """Whether a word can begin at `at`."""
    here = at
    while 0 < here > at - MOST_SIGNS and text[here - 1] in OPENING:
        here -= 1
    if here == 0 or text[here - 1].isspace() or text[here - 1] in _PARTS:
        return True
    before = text[here - 1]
    if before in ",;" and not (at < len(text) and text[at].isdigit() and here > 1 and text[here - 2].isdigit()):
        return True
    elided = _ELISION.search(text[max(0, at - 8) : at]) is not None and text[at - 2].islower()
    return elided or _between(text, at)


def _ends(text: str, at: int) -> bool:
    """Whether a word can end at `at`."""
    here = at
    while here < min(len(text), at + MOST_SIGNS) and text[here] in CLOSING:
        here += 1
    if here >= len(text) or text[here].isspace() or text[here] in _PARTS:
        return True
    after = text[at]
    if after in ",;" and not (text[at - 1].isdigit() and text[at + 1 : at + 2].isdigit()):
        return True
    return _between(text, at) or _ATTACHED.match(text, at) is not None


def _between(text: str, at: int) -> bool:
    """Whether words part at `at` without a space: around a picture, or in a script that writes none."""
    if not 0 < at < len(text):
        return True
    before, after = text[at - 1], text[at]
    if unicodedata.category(after)[0] == "M" or "\u200d" in (before, after) or after in "\ufe0e\ufe0f":
        return False
    if _KATAKANA.match(before) and _KATAKANA.match(after):
        return False
    pictures = {unicodedata.category(before), unicodedata.category(after)} & {"So", "Sk"}
    if pictures and "°" not in (before, after):
        return unicodedata.category(before)[0] != unicodedata.category(after)[0]
    return bool(_UNSPACED.match(before) or _UNSPACED.match(after))


def _is_capital(text: str, start: int, end: int) -> bool:
    """Whether the last word of the span begins with a capital letter, and is no word that opens a sentence."""
    last = text[start:end].split()[-1:]
    return bool(last) and last[0][0].isupper() and last[0].lower() not in words("openers")


def _places(text: str, value: str) -> Iterator[tuple[int, int]]:
    """Every place of `value` in `text`, in any case, with any quotes, dashes and spaces."""
    start, end = _core(value, 0, len(value))
    core = value[start:end].strip()
    if core:
        pattern_ = r"\s+".join("".join(map(_alike, word)) for word in core.split())
        yield from (match.span() for match in re.finditer(pattern_, text, re.IGNORECASE))


def _alike(char: str) -> str:
    """A pattern of the characters that make no difference from `char`."""
    for alike in ("'’‘`", '"“”„«»', "-‐‑–−"):
        if char in alike:
            return f"[{re.escape(alike)}]"
    return re.escape(char)
