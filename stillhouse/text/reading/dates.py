"""Dates and times at the beginning of a line or in a heading, as notes, chats and logs write them.

In: text. Out: the date, in ISO 8601 where it can be only one, else as it is written; the time of day is dropped. It
knows the months in several languages and no calendar but ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MONTHS = (
    (
        "january jan january. januar jänner janvier janv enero ene gennaio genn janeiro januari styczeń "
        "stycznia leden ledna января янв"
    ),
    (
        "february feb febr februar février févr fév febrero febbraio fevereiro februari luty lutego únor "
        "února февраля фев"
    ),
    "march mar mär märz mars marzo março maart marts marzec marca březen března марта мар",
    "april apr avril avr abril abr aprile aprile kwiecień kwietnia duben dubna апреля апр",
    "may mai mayo maggio maio mei maj maja květen května мая май",
    "june jun juni juin junio giugno junho czerwiec czerwca červen června июня июн",
    "july jul juli juillet juil julio luglio julho lipiec lipca červenec července июля июл",
    "august aug août agosto ago augustus augusti sierpień sierpnia srpen srpna августа авг",
    ("september sept sep septembre septiembre settembre sett setembro wrzesień września září сентября сент сен"),
    (
        "october oct oktober okt octobre octubre ottobre ott outubro oktober październik października říjen "
        "října октября окт"
    ),
    "november nov novembre noviembre novembro listopad listopada listopadu ноября ноя",
    (
        "december dec dezember dez décembre déc diciembre dic dicembre dezembro grudzień grudnia prosinec "
        "prosince декабря дек"
    ),
)
_NUMBER = {name.rstrip("."): number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
_NAMES = "|".join(sorted(map(re.escape, _NUMBER), key=lambda name: (-len(name), name)))
_WEEKDAY = (
    r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?|montag|dienstag|mittwoch|donnerstag|freitag|samstag|"
    r"sonntag|mo|di|mi|do|fr|sa|so|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche|lunes|martes|miércoles|jueves|"
    r"viernes|sábado|domingo|lunedì|martedì|mercoledì|giovedì|venerdì|sabato|domenica|maandag|dinsdag|woensdag|donderdag|"
    r"vrijdag|zaterdag|zondag)\.?"
)
_DAY = (
    r"(?:\d{4}-\d{1,2}-\d{1,2}|\d{4}[/.]\d{1,2}[/.]\d{1,2}|\d{1,2}[/.-]\d{1,2}[/.-](?:\d{4}|\d{2})|\d{4}年\d{1,2}月\d{1,2}日"
    rf"|\d{{1,2}}(?:st|nd|rd|th|er|\.|º)?\s(?:of\s|de\s)?(?:{_NAMES})\b\.?(?:,?\s(?:de\s|del\s)?\d{{4}})?"
    rf"|(?:{_NAMES})\b\.?\s\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s\d{{4}})?(?!\d))"
)
_RELATIVE = (
    r"(?:today|yesterday|heute|gestern|hier|aujourd'hui|hoy|ayer|oggi|ieri|vandaag|gisteren|сегодня|вчера|今天|昨天)"
)
TIME = (
    r"\d{1,2}[:.h]\d{2}(?:[:.]\d{2})?(?:[.,]\d{1,6})?(?:\s?[AaPp]\.?\s?[Mm]\b\.?)?"
    r"(?:\s?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2}))?(?:\s(?:Uhr|h)\b)?"
)
_WHOLE_DAY = rf"(?:{_WEEKDAY},?\s)?(?:{_DAY})|{_RELATIVE}|{_WEEKDAY}(?=,?\s)"
STAMP = rf"(?:(?:{_WHOLE_DAY})(?:(?:,?\s(?:at\s|um\s|à\s|a\slas\s)?|T|,\s?){TIME})?|{TIME})"
_ENTRY = re.compile(
    rf"(?P<open>[\[(]?)(?P<stamp>(?:{_WEEKDAY},?\s)?(?:{_DAY})(?:(?:,?\s(?:at\s|um\s)?|T){TIME})?)[\])]?"
    r"(?P<mark>\s*(?::|–|—|\||-(?=\s))\s*|\s+)(?=\S)",
    re.IGNORECASE,
)
_ONLY = re.compile(
    rf"[-–—\s*=]*(?P<date>(?:{_WEEKDAY},?\s)?(?:{_DAY})|{_WEEKDAY}|{_RELATIVE})[-–—\s*=:.]*", re.IGNORECASE
)
_HEAD = re.compile(rf"(?P<date>(?:{_WEEKDAY},?\s)?(?:{_DAY}))\s*[-–—:,(]\s*(?P<rest>.+?)\)?", re.IGNORECASE)
_TAIL = re.compile(rf"(?P<rest>.+?)\s*[-–—:,(]\s*(?P<date>(?:{_WEEKDAY},?\s)?(?:{_DAY}))\)?", re.IGNORECASE)
_IN = re.compile(_WHOLE_DAY, re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """The date that a line begins with, and the characters it takes."""

    date: str
    length: int


def entry(text: str) -> Entry | None:
    """The date at the beginning of a line of a diary: "2024-03-04: ran", "[4.3.2024] ran"; with its year."""
    match = _ENTRY.match(text) if text[:1].isdigit() or text[:1].isalpha() or text[:1] in "[(" else None
    if match is None or not re.search(r"\d{4}|\d[./-]\d{2}$", match["stamp"]):
        return None
    if match["mark"].isspace() and not (re.match(r"\d{4}-", match["stamp"]) or match["open"] == "["):
        return None
    return Entry(date_of(match["stamp"]), match.end())


def day(text: str) -> str:
    """The date that a text is; empty where it is more than a date, or none."""
    match = _ONLY.fullmatch(text) if len(text) < 60 else None
    return iso(match["date"]) if match else ""


def dated(heading: str) -> tuple[str, str]:
    """(date, the rest) of a heading with a date at its beginning or end."""
    if len(heading) < 200:
        for pattern in (_ONLY, _HEAD, _TAIL):
            if (match := pattern.fullmatch(heading)) is not None:
                return iso(match["date"]), match.groupdict().get("rest") or ""
    return "", heading


def date_of(stamp: str) -> str:
    """The date in a stamp, without the time; empty where it has none."""
    match = _IN.search(stamp)
    return iso(match[0]) if match else ""


def iso(text: str) -> str:
    """A date as ISO 8601 where it can be only one, else as it is written."""
    plain = re.sub(rf"^{_WEEKDAY},?\s", "", text, flags=re.IGNORECASE)
    if match := re.fullmatch(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?", plain):
        return _iso(text, int(match[1]), int(match[2]), int(match[3]))
    if match := re.fullmatch(r"(\d{1,2})([/.-])(\d{1,2})[/.-](\d{4}|\d{2})", plain):
        a, b, year = int(match[1]), int(match[3]), int(match[4])
        year += 2000 if year < 100 else 0
        if match[2] == "." or a > 12 or a == b:
            return _iso(text, year, b, a)
        return _iso(text, year, a, b) if b > 12 else text
    day_first = re.fullmatch(r"(\d{1,2})\D{0,3}\s(?:of\s|de\s)?([^\W\d]+)\.?,?\s(?:de\s|del\s)?(\d{4})", plain)
    if day_first:
        return _iso(text, int(day_first[3]), _NUMBER.get(day_first[2].lower(), 0), int(day_first[1]))
    if match := re.fullmatch(r"([^\W\d]+)\.?\s(\d{1,2})\D{0,2},?\s(\d{4})", plain):
        return _iso(text, int(match[3]), _NUMBER.get(match[1].lower(), 0), int(match[2]))
    return text


def _iso(text: str, year: int, month: int, day: int) -> str:
    return f"{year:04}-{month:02}-{day:02}" if 1 <= month <= 12 and 1 <= day <= 31 else text
