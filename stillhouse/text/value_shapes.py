"""What values look like: regular expressions for dates, times, numbers with their units, addresses, codes, quotations.

In: a text, and a place where a value may begin. Out: the longest shape there, and its kind. Every pattern is bounded,
so a match costs the same in a long text as in a short one. Names have no shape: `names.py` knows them.
"""

from __future__ import annotations

import re
from functools import cache

from .value_words import pattern

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_W = rf"(?:(?![{UNSPACED}])\w)"  # a letter or digit of a script that parts its words
_MONTH = rf"(?:{pattern('months')}\b(?:\.(?=,?\s?\d))?)"
_DAY = r"[0-3]?\d(?:\.|st\b|nd\b|rd\b|th\b|er\b|º)?(?!\d)"
_YEAR = r"(?:\d{4}\b)"
_AMOUNT = r"\d{1,3}(?:[.,'’\s]\d{3}){1,6}(?:[.,]\d{1,4})?(?![\d])|\d{1,18}(?:[.,]\d{1,18})?"
_AFTER_AMOUNT = rf"(?:[.,][-–—])?(?:\s?{pattern('scales')}\b)?"
_SIGN = r"[$€£¥₹₽₩₺฿₫₴₪]"
_CODES = r"(?:EUR|USD|GBP|CHF|JPY|CNY|INR|RUB|SEK|NOK|DKK|PLN|CZK|HUF|AUD|CAD|NZD|ZAR|BRL|MXN|TRY|KRW|Rs\.?|US\$|R\$)"
_CLOCK = rf"(?:\s?{pattern('clock')}(?!\w))"
_HOUR = r"[0-2]?\d(?:[:.h][0-5]\d(?::[0-5]\d)?)?"
_COLONS = r"[0-2]?\d[:h][0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?"
_TO = r"(?:\s?[-–—]\s?|\s(?:to|bis|until|till|à|a)\s)"
_ZONE = r"(?:\s(?:UTC|GMT|CES?T|E[SD]T|P[SD]T|BST)(?:[+-]\d{1,2})?\b)"
_HAN = "[〇一二三四五六七八九十百千万两]"
_NAME = r"(?:[^\W\d_][\w'’.-]{0,30})"
_HOUSE = r"(?:n\.?º\s?|д\.\s?|nr\.?\s)?"  # "number", before one
_STREET_NUMBER = r"\d{1,5}\s?[A-Za-z]?\b(?:\s?[-–/]\s?\d{1,5}[A-Za-z]?\b)?"

_DIGITS: dict[str, str] = {
    "address": rf"{_STREET_NUMBER},?\s(?:{_NAME}\s){{1,4}}{pattern('street words')}\b"
    rf"|{_STREET_NUMBER}(?:\s(?:bis|ter))?,?\s{pattern('street first')}\s(?:[^\W\d_][\w'’-]{{0,30}}\s?){{1,4}}",
    "date": rf"\d{{4}}-[01]\d(?:-[0-3]\d(?:[T\s]{_HOUR}(?:Z|[+-]\d\d:?\d\d)?)?)?"
    rf"|{_DAY}(?:\s(?:of|de|d'))?\s?{_MONTH}(?:(?:,?\s(?:de\s|del\s)?|\s?’?){_YEAR})?"
    r"|[0-3]?\d[./-][0-3]?\d[./-](?:\d{4}|\d\d)|[0-3]?\d\.\s?[01]?\d\.(?:\s?\d{4})?|\d{4}[./][01]?\d[./][0-3]?\d"
    r"|\d{2,4}\s?[年년]\s?(?:\d{1,2}\s?[月월]\s?(?:\d{1,2}\s?[日号號일])?)?|\d{1,2}\s?[月월]\s?\d{1,2}\s?[日号號일]",
    "time": rf"{_COLONS}{_CLOCK}?(?:{_TO}{_COLONS})?{_CLOCK}?{_ZONE}?|{_HOUR}{_CLOCK}?(?:{_TO}{_HOUR})?{_CLOCK}{_ZONE}?"
    r"|\d{1,2}[点點時时](?:\d{1,2}分|半)?",
    "phone": r"\+?(?:\(\d{1,6}\)|\d{1,6})(?:[\s./-]{1,2}(?:\(\d{1,6}\)|\d{2,8})){1,7}(?![\d])",
    "money": rf"(?:{_AMOUNT}){_AFTER_AMOUNT}\s?(?:{_SIGN}|{pattern('currencies')}\b)",
    "quantity": rf"(?:{_AMOUNT})(?:\s?[-–x×/]\s?(?:{_AMOUNT}))?{_AFTER_AMOUNT}[\s-]?"
    rf"(?:{pattern('units')}(?!\w)|{pattern('counters')})",
    "number": rf"(?:{_AMOUNT})(?:\s?{pattern('scales')}\b)?",
    "ip address": r"\d{1,3}(?:\.\d{1,3}){3}(?:[:/]\d{1,5})?",
}
_LETTERS: dict[str, str] = {
    "date": rf"{_MONTH}\s{_DAY}(?:,?\s{_YEAR})?|{_MONTH}(?:\s(?:de\s|of\s)?{_YEAR})",
    "money": rf"{_CODES}\s?(?:{_AMOUNT}){_AFTER_AMOUNT}",
    "account": r"[A-Z]{2}\d{2}(?:\s?[A-Z0-9]{4}){2,7}(?:\s?[A-Z0-9]{1,3})?\b",
    "code": r"(?:[A-Z]{1,3}-[A-Z]{1,2}\s\d{1,4}|[A-Z]{0,4}\d[A-Z0-9]{0,6}(?:\s(?=[A-Z0-9]*\d)[A-Z0-9]{1,8}){1,3})\b",
    "quantity": rf"{pattern('number words')}(?:[\s-]{pattern('number words')})?[\s-]{pattern('units')}(?!\w)",
    "address": rf"[^\W\d_][\w-]{{2,30}}{pattern('street last')}\s{_STREET_NUMBER}"
    rf"|{pattern('street first')}\s(?:[^\W\d_][\w'’.-]{{0,30}},?\s){{1,4}}{_HOUSE}\d{{1,5}}[A-Za-z]?\b",
    "abbreviation": rf"{pattern('abbreviations')}\.(?!\w)",
}
_SIGNS: dict[str, str] = {
    "money": rf"{_SIGN}\s?(?:{_AMOUNT}){_AFTER_AMOUNT}",
    "phone": _DIGITS["phone"],
    "quantity": rf"[-+−]\s?{_DIGITS['quantity']}",
    "number": rf"[-+−±](?:{_AMOUNT})",
    "quotation": r"\"[^\"\n]{1,80}\"|“[^”\n]{1,80}”|„[^“”\n]{1,80}[“”]|«[^»\n]{1,80}»|‘[^’\n]{1,80}’|『[^』\n]{1,80}』"
    r"|「[^」\n]{1,80}」|《[^》\n]{1,80}》|'(?! )[^'\n]{1,80}'(?!\w)",
}
_TOKEN = rf"(?:[^\s—…{UNSPACED}、。，！？；：（）「」『』《》,;|]|(?<=\d),(?=\d)){{1,2048}}"
_IN_ONE_WORD: tuple[tuple[str, str], ...] = (
    ("email", r"[^@\s]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
    ("handle", r"[@#][\w][\w.-]*"),
    ("mac address", r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}"),
    ("ip address", r"(?=.*\d|.*::)[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:/\d{1,3})?"),
    ("version", r"[vV]?\d{1,6}(?:\.\d{1,6}){1,4}(?:[-+.][\w.+-]{1,40})?"),
    ("path", r"(?:~|\.{1,2}|[A-Za-z]:)?[\\/][^\s]*\w[^\s]*|[\w.-]+(?:[\\/][\w.-]+)+|[\w-]+(?:\.[\w-]+)+"),
    ("code", r"(?=.*\d)(?=.*(?:[^\W\d]|[-/_.#:]))\w.*"),
)
_CLOSING = ".,;:!?\"'”“’»›)」』》]}>*_…"


@cache
def _compiled(group: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    shapes = {"digits": _DIGITS, "letters": _LETTERS, "signs": _SIGNS}[group]
    exact = {"account", "code", "money"} if group == "letters" else set()
    return tuple((kind, re.compile(shape, 0 if kind in exact else re.IGNORECASE)) for kind, shape in shapes.items())


_WORD_SHAPES = tuple((kind, re.compile(shape)) for kind, shape in _IN_ONE_WORD)
_WHOLE_TOKEN = re.compile(_TOKEN)
_URL = re.compile(rf"(?:[A-Za-z][A-Za-z0-9+.-]{{1,15}}://|www\.|mailto:)[^\s<>\"{UNSPACED}]{{1,2048}}")


def shapes(text: str, start: int) -> list[tuple[int, str]]:
    """(end, kind) of every shape that begins at `start`, the longest first."""
    first = text[start]
    group = "digits" if first.isdigit() else "letters" if first.isalpha() else "signs"
    matched = [(match.end(), kind) for kind, shape in _compiled(group) if (match := shape.match(text, start))]
    return sorted(matched + _one_word(text, start), reverse=True)


def _one_word(text: str, start: int) -> list[tuple[int, str]]:
    """The token at `start` without the signs at its end, where it has one of the shapes."""
    url = _URL.match(text, start)
    token = url or _WHOLE_TOKEN.match(text, start)
    if token is None:
        return []
    core = token[0].rstrip(_CLOSING)
    if "(" in core and token[0][len(core) : len(core) + 1] == ")":
        core += ")"
    if url:
        return [(start + len(core), "url")]
    return next(([(start + len(core), kind)] for kind, shape in _WORD_SHAPES if core and shape.fullmatch(core)), [])
