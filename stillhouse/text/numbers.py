"""Numbers, dates, times, money and amounts that take several words, as one piece in one form.

In: the pieces of a text (`text/pieces.py`). Out: the same, with "twenty-one" as 21, "two million" as 2000000, "7 May
2023" as 2023-05-07, "half past seven" as 07:30, "7:30 pm" as 19:30, "£38.40" and "38.40 pounds" as 38.4 gbp, "3
kilograms" as 3 kg. The words are the language's; months also of other languages (`text/particles.py`).

It converts nothing: 60 minutes are not an hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from . import particles
from .language import (
    CARDINALS,
    HALVES_OF_A_DAY,
    HOUR_SIGNS,
    HOURS,
    JOINING,
    LONG_UNITS,
    MONTH_NAMES,
    MONTH_OR_VERB,
    MONTHS,
    MULTIPLIERS,
    NEGATIVE,
    NO_MONTH,
    NO_NUMBER_BEFORE_ONE,
    OF_THE_DAY,
    ORDINALS,
    PARTS_OF_A_DAY,
    PARTS_OF_AN_HOUR,
    UNITS,
    WEEKDAYS,
)
from .pieces import CURRENCIES, Piece, calendar

MONTH_WORDS = particles.MONTHS | MONTHS
_ALONE = particles.MONTHS | {name: MONTHS[name] for name in MONTH_NAMES}
_HOUR_SIGNS = HOUR_SIGNS | particles.HOUR_SIGNS
_MONEY = frozenset(CURRENCIES.values())
_FIRST_PARTS = frozenset(first for first, _ in PARTS_OF_AN_HOUR)
_TRIGGERS = (
    frozenset(CARDINALS) | frozenset(ORDINALS) | frozenset(MULTIPLIERS) | frozenset(MONTH_WORDS) | frozenset(HOURS)
    | NEGATIVE | _FIRST_PARTS
)  # fmt: skip
_PLAIN = re.compile(r"[-+]?\d+(?:\.\d+)?")
_DAY = re.compile(r"(?:0?[1-9]|[12]\d|3[01])(?:th)?")
_YEAR = re.compile(r"\d{4}")
_CLOCK = re.compile(r"(\d{1,2})(?:[:.]([0-5]\d))?")
_UNIT_AS_IT_IS = frozenset("°c °f ° µg µm km/h m/s mph kwh kw w v kb".split())


@dataclass
class Row:
    """Pieces that are being put together, each with what stands before it."""

    pieces: list[Piece]
    gaps: list[str]

    def key(self, i: int) -> str:
        """The key at `i`; "" beyond the end."""
        return self.pieces[i].key if 0 <= i < len(self.pieces) else ""

    def joined(self, i: int) -> bool:
        """Whether no sign stands between the piece before `i` and the one there."""
        return 0 < i < len(self.gaps) and self.gaps[i] in ("", " ")

    def put(self, start: int, end: int, *new: Piece) -> None:
        """Put `new` in place of the pieces from `start` up to `end`."""
        self.gaps[start:end] = [self.gaps[start], *[" "] * (len(new) - 1)] if new else []
        self.pieces[start:end] = new


def has_numbers(row: Row) -> bool:
    """Whether anything here could be put together."""
    return any(p.key in _TRIGGERS or p.key[0].isdigit() or "-" in p.key for p in row.pieces)


def put_together(row: Row) -> None:
    """Put numbers, times, dates and amounts together, in place."""
    for rule in (_words, _times, _dates, _amounts):
        i = 0
        while i < len(row.pieces):
            rule(row, i)
            i += 1


def _words(row: Row, i: int) -> None:
    key = row.key(i)
    if key in _FIRST_PARTS and _part_of_an_hour(row, i):
        return
    if key in ORDINALS and not (key == "second" and _PLAIN.fullmatch(row.key(i - 1))):
        row.put(i, i + 1, Piece(f"{ORDINALS[key]}th", row.pieces[i].raw))
    elif key in NEGATIVE and row.joined(i + 1):
        amount, end = _cardinal(row, i + 1)
        if amount is not None and amount >= 0:
            row.put(i, end, Piece(f"-{_digits(amount)}", _raw(row, i, end)))
    elif "-" in key and _hyphened(row, i):
        return
    else:
        amount, end = _cardinal(row, i)
        if amount is not None and not (key == "one" and _no_number(row, i)):
            row.put(i, end, _ordinal_or(amount, row, i, end))


def _hyphened(row: Row, i: int) -> bool:
    """Part "twenty-one" in two, for `_cardinal`."""
    first, _, second = row.key(i).partition("-")
    if first in CARDINALS and (second in CARDINALS or second in ORDINALS):
        row.put(i, i + 1, Piece(first, first), Piece(second, second))
        _words(row, i)
        return True
    return False


def _ordinal_or(amount: Decimal, row: Row, i: int, end: int) -> Piece:
    """The number, or "21st" of "twenty first", whose second word then goes too."""
    unit = ORDINALS.get(row.key(end), 0)
    if row.key(i) in CARDINALS and amount >= 20 and amount % 10 == 0 and 0 < unit < 10 and row.joined(end):
        raw = _raw(row, i, end + 1)
        row.put(end, end + 1)
        return Piece(f"{int(amount) + unit}th", raw)
    return Piece(_digits(amount), _raw(row, i, end))


def _raw(row: Row, i: int, end: int) -> str:
    return " ".join(p.raw for p in row.pieces[i:end])


def _no_number(row: Row, i: int) -> bool:
    """Whether "one" stands for a thing: "this one", "one of them"."""
    return row.key(i - 1) in NO_NUMBER_BEFORE_ONE or row.key(i + 1) == "of"


def _cardinal(row: Row, i: int) -> tuple[Decimal | None, int]:
    """The number that begins at `i`, in words or as digits with a word behind, and where it ends; None: there is none.

    A word that cannot go on with the number ends it: "three four" are two numbers.
    """
    total, current, end, room = Decimal(0), Decimal(0), i, Decimal(10**12)
    key = row.key(i)
    if _PLAIN.fullmatch(key) and row.joined(i + 1) and row.key(i + 1) in MULTIPLIERS:
        current, end, room = Decimal(key), i + 1, Decimal(1)
    while end < len(row.pieces) and (end == i or row.joined(end)):
        key = row.key(end)
        if key in CARDINALS and CARDINALS[key] < room and not (CARDINALS[key] == 0 and end > i):
            value = CARDINALS[key]
            current, room = current + value, Decimal(10 if value >= 20 else 0)
        elif key in MULTIPLIERS:
            times = MULTIPLIERS[key]
            if times == 100:
                current, room = (current or Decimal(1)) * 100, Decimal(100)
            else:
                total, current, room = total + (current or Decimal(1)) * times, Decimal(0), Decimal(1000)
        elif not (key == JOINING and room >= 100 and end > i and row.key(end + 1) in CARDINALS):
            break
        end += 1
    return (total + current, end) if end > i else (None, i)


def _digits(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _part_of_an_hour(row: Row, i: int) -> bool:
    """ "half past seven", "quarter to eight"."""
    minutes = PARTS_OF_AN_HOUR.get((row.key(i), row.key(i + 1)))
    hour = CARDINALS.get(row.key(i + 2)) or (int(row.key(i + 2)) if row.key(i + 2).isdecimal() else 0)
    if minutes is None or not 1 <= hour <= 12:
        return False
    at = hour * 60 + minutes
    row.put(i, i + 3, _clock(at // 60, at % 60))
    return True


def _clock(hour: int, minute: int) -> Piece:
    key = f"{hour % 24:02}:{minute:02}"
    return Piece(key, key, "", frozenset((key, f"~{hour % 24}:{minute:02}")), frozenset((key,)))


def _times(row: Row, i: int) -> None:
    """An hour with what says which: "7 pm", "7.30pm", "7 o'clock", "7:30 in the evening", "noon"."""
    key, behind = row.key(i), row.key(i + 1)
    if key in HOURS:
        row.put(i, i + 1, _clock(int(HOURS[key][:2]), int(HOURS[key][3:])))
        return
    clock = _CLOCK.fullmatch(key)
    if clock is None or int(clock[1]) > 24:
        return
    hour, minute = int(clock[1]), int(clock[2] or 0)
    if behind in _HOUR_SIGNS:
        row.put(i, i + 2, _clock(hour, minute))
        behind = row.key(i + 1)
    if behind in HALVES_OF_A_DAY and hour <= 12:
        row.put(i, i + 2, _clock(hour % 12 + HALVES_OF_A_DAY[behind], minute))
    elif behind == OF_THE_DAY and 1 <= hour <= 12:
        end = i + 3 if row.key(i + 2) == "the" else i + 2
        if row.key(end) in PARTS_OF_A_DAY:
            row.put(i, end + 1, _clock(hour % 12 + PARTS_OF_A_DAY[row.key(end)], minute))


def _dates(row: Row, i: int) -> None:
    """A day, a month and a year, in either order, or two of them; a month alone in its one name."""
    month = MONTH_WORDS.get(row.key(i))
    if month is None:
        return
    start, end, day, year = i, i + 1, 0, ""
    before = _back(row, i - 1)
    if before >= 0 and row.joined(i) and _DAY.fullmatch(row.key(before)):
        start, day = before, int(row.key(before).removesuffix("th"))
    elif row.joined(end) and _DAY.fullmatch(row.key(_on(row, end))):
        end = _on(row, end) + 1
        day = int(row.key(end - 1).removesuffix("th"))
    if _YEAR.fullmatch(row.key(_on(row, end))):
        end = _on(row, end) + 1
        year = row.key(end - 1)
    if day or year:
        while day and start and row.key(start - 1) in WEEKDAYS:
            start -= 1
        row.put(start, end, calendar(year, month, day, _raw(row, start, end)))
    elif row.key(i) == MONTH_OR_VERB and row.key(i + 1) in NO_MONTH:
        row.put(i, i + 1, Piece(f"({row.key(i)})", row.pieces[i].raw))
    elif row.key(i) in _ALONE:
        row.put(i, i + 1, Piece(MONTH_NAMES[month - 1], row.pieces[i].raw))


def _on(row: Row, i: int) -> int:
    """`i`, or the place behind a word between the parts of a date: "May the 7th", "mayo de 2023"."""
    return i + 1 if row.key(i) in particles.BETWEEN_DATE_PARTS or row.key(i) == "the" else i


def _back(row: Row, i: int) -> int:
    return i - 1 if row.key(i) in particles.BETWEEN_DATE_PARTS else i


def _amounts(row: Row, i: int) -> None:
    """A number with its unit or currency: the number without zeros at its end, the unit as its sign, behind it."""
    key = row.key(i)
    if (
        key in _MONEY
        and row.joined(i + 1)
        and _PLAIN.fullmatch(row.key(i + 1))
        and not _PLAIN.fullmatch(row.key(i - 1))
    ):
        row.put(i, i + 2, _amount(row.pieces[i + 1]), row.pieces[i])
        return
    if not _PLAIN.fullmatch(key) or not row.joined(i + 1):
        return
    behind, long = row.key(i + 1), LONG_UNITS.get((row.key(i + 1), row.key(i + 2)))
    if long is not None:
        row.put(i, i + 3, _amount(row.pieces[i]), Piece(long, long))
    elif behind in UNITS:
        row.put(i, i + 2, _amount(row.pieces[i]), unit(behind))
    elif behind in _MONEY or behind in _UNIT_AS_IT_IS:
        row.put(i, i + 2, _amount(row.pieces[i]), row.pieces[i + 1])


def unit(word: str) -> Piece:
    """The sign of a unit; of a word for two units, either will do."""
    signs = UNITS[word]
    if len(signs) == 1:
        return Piece(signs[0], word)
    return Piece(signs[0], word, "", frozenset(signs), frozenset(signs))


def _amount(piece: Piece) -> Piece:
    plain = _digits(Decimal(piece.key)) if "." in piece.key else piece.key
    return Piece(plain, piece.raw) if plain != piece.key else Piece(piece.key, piece.raw)
