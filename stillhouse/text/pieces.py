"""Text in one form, cut into pieces: words, numbers, codes, and single characters of scripts without spaces.

In: any text. Out: pieces in order, each with what stands before it: nothing, a space, a clause's sign, a stroke.
Letters lose their case, width and compatibility forms (NFKC), digits of all scripts become ASCII, quotes and dashes
become one kind. Signs at the edges of a word go; those inside it stay, as do the last ones of "C++" and "A-".

It does not know words; what several pieces mean together, as "7 May", is for `text/numbers.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .particles import ELISION

CURRENCIES = {"€": "eur", "£": "gbp", "$": "usd", "¥": "jpy", "₹": "inr", "₽": "rub", "₩": "krw", "₺": "try"}
_SPACELESS = (
    "\u3005\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"
)
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3\u3099\u309a"
_MONEY = "".join(CURRENCIES)
_W = rf"[^\x00-/:-^`{{-\x7f{_MONEY}°{_SPACELESS}]"
_PIECE = re.compile(
    rf"(?P<whole>https?://[^\s<>\"]+|{_W}(?:[{{}}.+-]?{_W})*@{_W}+(?:[.-]{_W}+)+|\d{{4}}年\d{{1,2}}月\d{{1,2}}日"
    r"|\d{1,2}月\d{1,2}日)"
    rf"|(?P<one>[{_SPACELESS}][{_MARKS}]*)"
    rf"|(?P<word>(?:[@~]?/+|@|[{_MONEY}])?(?:[-+](?=\d))?{_W}+(?:[-'.,:/@&+=~%\\#]+{_W}+)*(?:[-+#]+|%|°[cf]?\b|[{_MONEY}])?)"
    rf"|(?P<sign>[{_MONEY}%&]|°[cf]?)"
    r"|(?P<rest>.)"
)
_QUOTES = frozenset("\"'`*_")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\d+,\d{1,2})")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_TIME = re.compile(r"([01]?\d|2[0-4])([:.])([0-5]\d)")
_DATES = (
    (re.compile(r"(?P<y>\d{4})([-/])(?P<m>\d{1,2})\2(?P<d>\d{1,2})"), False),
    (re.compile(r"(?P<y>\d{4})年(?P<m>\d{1,2})月(?P<d>\d{1,2})日"), False),
    (re.compile(r"(?P<m>\d{1,2})月(?P<d>\d{1,2})日(?P<y>)"), False),
    (re.compile(r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})"), False),
    (re.compile(r"(?P<d>\d{1,2})([-/])(?P<m>\d{1,2})\2(?P<y>\d{4})"), True),  # which of the two is the day?
)
_GLUED = re.compile(rf"([{_MONEY}])?([-+]?\d[\d.,:]*\d|[-+]?\d)([a-zµ]+\d?|[a-z]+/[a-z]+|%|°[cf]?|[{_MONEY}])?")
_INITIALS = re.compile(r"(?:[a-z]\.)+[a-z]")
_APART = re.compile(r"\.\.+|--+|,(?!\d)|(?<!\d),|(?<=[^\W\d]{2}):(?=[^\W\d]{2})")
_STROKE = re.compile(r"[^\W\d]+(?:/[^\W\d]+)+")


class Piece(NamedTuple):
    """One word, number or code."""

    key: str
    """Its one form."""
    raw: str
    """As it stands there, in the text's one form."""
    mark: str = ""
    """"s": it had an English possessive ending."""
    answers: frozenset[str] = frozenset()
    """All that it can stand for in an answer, where that is more than its key."""
    wants: frozenset[str] = frozenset()
    """Any of what an answer must have, where this is expected and more than its key will do."""


class _Signs(dict[int, str | int | None]):
    """What becomes of each character that is not ASCII."""

    def __missing__(self, code: int) -> str | int | None:
        self[code] = new = _sign(chr(code))
        return new


def _sign(c: str) -> str | int | None:
    category = unicodedata.category(c)
    if c.isascii():
        return ord(c)
    if category == "Nd":
        return str(unicodedata.digit(c))
    if c == "\u0640" or "\u064b" <= c <= "\u0652" or category == "Cf":  # Arabic lengthening, vowel signs; invisible
        return None
    if category[0] in "LNM" or c in CURRENCIES or c == "°":
        return ord(c)
    if c in "‘’ʼ′‛":
        return "'"
    if category == "Pd":
        return "-" if c in "‐‑–" else " - "
    if c in "“”„«»「」『』‚‹›":
        return '"'
    if c == "\u2044":
        return "/"
    return " " if category[0] in "ZC" or c in "¿¡" else " , "


_SIGNS = _Signs()


def one_form(text: str) -> str:
    """`text` without differences of case, width, kind of digits, quotes and dashes."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.translate(_SIGNS)


@lru_cache(maxsize=65536)
def pieces(chunk: str) -> tuple[tuple[tuple[str, Piece], ...], str]:
    """The pieces of a chunk without spaces, in one form, each with what stands before it; and what stands behind them.

    Before: "" nothing, " " a space (also before the first), "," a sign that ends a clause, "/" a stroke.
    """
    if chunk.isalpha() and chunk.isascii():
        return ((" ", Piece(chunk, chunk)),), " "
    result: list[tuple[str, Piece]] = []
    before = " "
    for match in _PIECE.finditer(chunk):
        kind, text = match.lastgroup, match[0]
        if kind == "rest":
            if text not in _QUOTES and not (text == "." and before == ","):
                before = "/" if text == "/" and result else " " if text == "." and result else ","
            continue
        for gap, piece in _read(kind or "", text):
            result.append((gap if gap and result and before == "" else before, piece))
            before = ""
    return tuple(result), before or " "


def _read(kind: str, text: str) -> Iterator[tuple[str, Piece]]:
    if kind == "one":
        yield "", Piece(text, text)
    elif kind == "sign":
        yield "", Piece(CURRENCIES.get(text, text), text)
    elif kind == "whole":
        yield "", date(text) or Piece(_bare(text), text)
    else:
        yield from _word(text)


def _bare(address: str) -> str:
    """An address without protocol, "www." and the signs of a sentence at its end."""
    return re.sub(r"^https?://(?:www\.)?", "", address.rstrip(".,;:!?)]}'/"))


def _word(text: str) -> Iterator[tuple[str, Piece]]:
    """The pieces of a run of letters, digits and the signs between them, each with what stands before it."""
    if (text.endswith("-") and len(text) > 3) or text.endswith(("'", "/", ".", "\\", "=", "~")):
        text = text.rstrip("-'/.\\=~")
    parts = _APART.split(text)
    if len(parts) > 1:
        for part in filter(None, parts):
            for gap, piece in _word(part):
                yield gap or ",", piece
    elif _STROKE.fullmatch(text):
        for n, part in enumerate(text.split("/")):
            yield "/" if n else "", Piece(part, part)
    elif text[0].isdigit() or text[0] in "+-" or text[0] in CURRENCIES:
        yield from _digits(text)
    else:
        yield from _letters(text)


def _letters(text: str) -> Iterator[tuple[str, Piece]]:
    elision = ELISION.match(text)
    if elision is not None:
        yield "", Piece(elision[0], elision[0])
        text = text[elision.end() :]
    key, mark = text, ""
    if text.endswith("'s") and len(text) > 2:
        key, mark = text[:-2], "s"
    elif _INITIALS.fullmatch(text):
        key = text.replace(".", "")
    elif text.startswith("www."):
        key = _bare(f"https://{text}")
    yield "", Piece(key, text, mark)


def _digits(text: str) -> Iterator[tuple[str, Piece]]:
    whole = date(text) or number(text)
    if whole is not None:
        yield "", whole
    elif (ordinal := _ORDINAL.fullmatch(text)) is not None:
        yield "", Piece(f"{int(ordinal[1])}th", text)
    elif (glued := _GLUED.fullmatch(text)) is not None and (amount := number(glued[2])) is not None:
        yield "", amount
        for sign in filter(None, (glued[1], glued[3])):
            yield "", Piece(CURRENCIES.get(sign, sign), sign, "glued")
    else:
        yield "", Piece(text, text)


def number(text: str) -> Piece | None:
    """A number or a time in digits; None where it is neither. Thousands have commas; a comma before one or two digits
    is a decimal one."""
    if (time := _TIME.fullmatch(text)) is not None:
        hour, minute = int(time[1]), time[3]
        either = f"~{hour}:{minute}"  # 7.30 may be a time
        key = f"{hour:02}:{minute}" if time[2] == ":" else text
        return Piece(key, text, "", frozenset((key, either)), frozenset((key, either)))
    if _NUMBER.fullmatch(text) is None:
        return None
    comma = text.rfind(",")
    if comma > 0 and len(text) - comma < 4:
        return Piece(text.replace(",", "."), text)
    return Piece(text.replace(",", ""), text)


def date(text: str) -> Piece | None:
    """A date in digits; None where it is none. Where nobody can tell day from month, its key is its digits."""
    for pattern, doubtful in _DATES:
        if (match := pattern.fullmatch(text)) is not None:
            year, month, day = match["y"], int(match["m"]), int(match["d"])
            if doubtful and day <= 12 and month <= 12 and day != month:
                return Piece(f"{day}/{month}/{year}", text)
            if doubtful and month > 12:
                day, month = month, day
            return calendar(year, month, day, text) if 1 <= month <= 12 and 1 <= day <= 31 else None
    return None


MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
          "november", "december")  # fmt: skip


def calendar(year: str, month: int, day: int, raw: str) -> Piece:
    """A date; `year` may be "" and `day` 0. In an answer it also stands for each part of it."""
    name = MONTHS[month - 1]
    exact = f"{year}-{month:02}-{day:02}" if year and day else f"{day} {name}" if day else f"{name} {year}"
    stands = {exact, name}
    if day:
        stands |= {f"{day} {name}", f"{day}th"}
    if year:
        stands |= {f"{name} {year}", year}
    return Piece(exact, raw, "date", frozenset(stands), frozenset((exact,)))
