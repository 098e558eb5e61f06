"""Conversations: who wrote what, and when, as messengers, forums, transcripts and models' logs write it.

In: lines. Out: the head of a message where a line is one: its speaker, its date, and where its text begins. The text
goes on to the next head. Names alone ("Marta: …") are heads where they come again and again. It does not know who is
who.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .dates import STAMP, date_of
from .lines import Line
from .pieces import count_words
from .words import words

_NAME = r"(?P<speaker>[^\W_][^:<>\[\](){}|*\n\t]{0,40}?)"
_BOLD_NAME = r"(?:\*\*|__)(?P<bold>[^*_\n]{1,40}?):?(?:\*\*|__)"
_NICK = r"<(?P<nick>[^<>\s]{1,40})>\s?"
_LEVEL = r"(?:(?:INFO|DEBUG|WARN|WARNING|ERROR|LOG)\s+)?"
_AT = rf"(?P<stamp>{STAMP})"
_INVISIBLE = "[\u200e\u200f\u202a-\u202e\ufeff]*"
_WITH_TEXT = tuple(
    re.compile(_INVISIBLE + pattern, re.IGNORECASE)
    for pattern in (
        rf"[\[(]{_AT}[\])]\s*(?:[-–—]\s*)?(?:{_NICK}|{_NAME}\s*:(?:\s+|$))",  # [date, time] Name: text
        rf"{_AT}\s*(?:[-–—|]\s*)?(?:{_NICK}|{_LEVEL}{_NAME}\s*(?::(?:\s+|$)|\|\s))",  # date, time - Name: text
        rf"(?:{_BOLD_NAME}|{_NAME}),?\s*[\[(]{_AT}[\])]\s*:\s*",  # Name (time): text
        r"<(?P<nick>[^<>\s/!][^<>\s]{0,39})>\s+(?=\S)",
    )
)
_ALONE = tuple(  # the text stands on the lines below
    re.compile(_INVISIBLE + pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:{_BOLD_NAME}|{_NAME})\s*(?:[-–—•·,|]\s*|\s)?{_AT}\s*:?$",  # Name — Yesterday at 10:12
        rf"(?:{_BOLD_NAME}|{_NAME}),?\s*[\[(]{_AT}[\])]$",
        rf"[\[(]{_AT}[\])]\s+{_NAME}$",
    )
)
_DAY_AND_TIME = re.compile(r"\d[:.h]\d{2}.*[ap]\.?m|[^\s\d:].*\s\d{1,2}[:.h]\d{2}|\d[/.-]\d.*\d:\d{2}", re.IGNORECASE)
_ROLE = re.compile(
    r"(?:\*\*|__|#{1,6}\s+)?(?P<speaker>[^\W\d_]{1,20}(?: [^\W\d_]{1,20})?)(?:\*\*|__)?\s*[:：](?:\*\*|__)?(?:\s+|$)"
)
_NAMED = re.compile(r"(?:\*\*|__)?(?P<speaker>[^\W\d_][\w.'’ -]{0,30}?)(?:\*\*|__)?\s*[:：](?:\*\*|__)?(?:\s+|$)")
_TAGGED = re.compile(r"<\|(?:im_start|start_header_id)\|>(?P<speaker>\w{1,20})(?:<\|end_header_id\|>)?\s*")
MOST_NAMES = 12


@dataclass(frozen=True)
class Head:
    """The head of a message: what stands before its text on its first line."""

    speaker: str
    date: str
    length: int
    """Characters of the line."""


@dataclass(frozen=True)
class Voices:
    """What a whole text tells about who speaks in it."""

    names: frozenset[str] = frozenset()
    """Names that lines begin with again and again."""
    many: bool = False
    """Whether it has several messages, so that a line with a name and a time is the head of one."""


NOBODY = Voices()


def head(line: Line, voices: Voices = NOBODY) -> Head | None:
    """The head of a message that a line begins with."""
    text = line.bare
    indent = len(line.text) - len(line.text.lstrip())
    if not text or text[0] in "#>|-" or not re.search(r"[:<\d：]", text[:120]):
        return None
    for pattern in _WITH_TEXT:
        if (match := pattern.match(text)) is not None and (speaker := _speaker(match)):
            return Head(speaker, date_of(match.groupdict().get("stamp") or ""), indent + match.end())
    for pattern in _ALONE if voices.many and len(text) < 120 else ():
        match = pattern.match(text)
        if match is not None and _DAY_AND_TIME.search(match["stamp"]) and (speaker := _speaker(match)):
            return Head(speaker, date_of(match["stamp"]), indent + match.end())
    if (match := _ROLE.match(text)) is not None and match["speaker"].lower() in words("roles"):
        return Head(match["speaker"], "", indent + match.end())
    if voices.names and (match := _NAMED.match(text)) is not None and match["speaker"].strip() in voices.names:
        return Head(match["speaker"].strip(), "", indent + match.end())
    return None


def voices_of(lines: Sequence[Line]) -> Voices:
    """Who speaks in a text."""
    return Voices(_names(lines), sum(head(line, Voices(many=True)) is not None for line in lines[:2000]) > 1)


def _speaker(match: re.Match[str]) -> str:
    groups = match.groupdict()
    name = (groups.get("nick") or groups.get("bold") or groups.get("speaker") or "").strip(" *_~@")
    return name if re.search(r"[^\W\d_]", name) and count_words(name) <= 5 else ""


def _names(lines: Sequence[Line]) -> frozenset[str]:
    """Names that lines begin with again and again, with sentences behind them."""
    counts: Counter[str] = Counter()
    spoken: Counter[str] = Counter()
    order: list[str] = []
    for line in lines:
        match = _NAMED.match(line.bare)
        if match is not None and not match["speaker"][0].islower():
            name = match["speaker"].strip()
            counts[name] += 1
            spoken[name] += count_words(line.bare[match.end() :])
            order.append(name)
    again = {name for name in counts if counts[name] > 1 and spoken[name] >= 3 * counts[name]}
    filled = sum(bool(line.bare) for line in lines)
    if not again or len(counts) > MOST_NAMES or len(counts) < 2 or len(order) * 2 < filled:
        return frozenset()
    turns = sum(a != b for a, b in pairwise(order))
    return frozenset(name for name in counts if spoken[name] >= 2) if turns * 2 >= len(order) - 1 else frozenset()
