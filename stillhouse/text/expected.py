"""What an answer must have: the runs of tokens of a value, in every form that counts, and the runs that make it wrong.

In: a value, its aliases, its foils, the question. Out: a `Pattern`, made once for each. The forms are: without leading
preposition; without the words that the question has; without titles; a title with the surname; the surname alone where
no foil has it; a space for a hyphen. A value of several parts ("Anna and Bo", "milk, eggs") needs all of them, in any
order.

It does not know answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from . import particles
from .language import (
    FUNCTION_WORDS,
    LEADING,
    NEGATORS,
    NO,
    OPENERS,
    TITLES,
    TOGETHER,
    UNITS,
    YES,
    is_unknown,
)
from .pieces import MONTHS, one_form
from .tokens import Element, Run, Tokens, code_of, find, tokens

_TOGETHER = TOGETHER | particles.TOGETHER
_YES, _NO = YES | particles.YES, NO | particles.NO
_NEGATORS = NEGATORS | particles.NEGATORS
_SAME_TITLE = {t: frozenset(w for w, title in TITLES.items() if title == t) for t in TITLES.values()}
EMPTY_WORDS = FUNCTION_WORDS | OPENERS  # they state nothing


@dataclass(frozen=True)
class Form:
    """One way to give a part: all its runs. `reduced`: words of the question are left out."""

    runs: tuple[Run, ...]
    reduced: bool = False


@dataclass(frozen=True)
class Part:
    """One part of a value: any of its forms, or its code with spaces in other places."""

    forms: tuple[Form, ...]
    code: str
    preposition: str
    """The one it begins with, which an answer may leave out and not change."""
    owner: str
    """"1" my, your or our, "3" another's; "" nobody's."""
    title: str
    is_number: bool


@dataclass(frozen=True)
class Foil:
    """What makes an answer wrong where it stands beside the value."""

    keys: tuple[str, ...]
    run: Run
    code: str
    is_plain: bool
    """Whether its keys are all that it can be found by."""


@dataclass(frozen=True)
class Pattern:
    """All that is expected of an answer."""

    values: tuple[tuple[Part, ...], ...]
    """The value and its aliases, each by its parts."""
    texts: tuple[str, ...]
    """The same in one form."""
    keys: tuple[tuple[str, ...], ...]
    foils: dict[str, tuple[Run, ...]]
    """Runs of the foils that count, by their first key."""
    other_foils: tuple[Foil, ...]
    """Those that more than their keys can stand for."""
    question: frozenset[str]
    is_asked: bool
    """Whether the question has the whole value already."""
    is_negative: bool
    """Whether the question has a negation."""
    is_denial: bool
    """Whether the value is itself "I don't know"."""
    polarity: str
    """"yes" or "no" where the value is just that."""
    limit: int
    """Words of an answer that are read."""
    whole: tuple[str, ...]
    """Values with a full stop inside, where no sentence ends."""


LONGEST = 40  # words


@lru_cache(maxsize=16384)
def pattern(value: str, aliases: tuple[str, ...], foils: tuple[str, ...], question: str) -> Pattern:
    """What is expected."""
    values = (value, *aliases)
    read = [tokens(v) for v in values]
    asked = tokens(question)
    words = question_words(asked)
    own = read[0].keys
    counted = [f for f in map(_foil, dict.fromkeys(foils)) if _counts(f, read, words)]
    others = frozenset(key for f in counted for key in f.keys)
    return Pattern(
        tuple(tuple(_parts(t, words, others)) for t in read if t.keys),
        tuple(one_form(v).strip() for v in values),
        tuple(t.keys for t in read if t.keys),
        _by_first_key(counted),
        tuple(f for f in counted if not f.is_plain),
        words,
        bool(own) and words.issuperset(own),
        not _NEGATORS.isdisjoint(asked.keys) or any(k.endswith("n't") for k in asked.keys),
        denies(value),
        _polarity(own),
        max(LONGEST, 2 * len(own)),
        tuple(v for v in values if "." in v[:-1] or "\n" in v.strip()),
    )


@lru_cache(maxsize=16384)
def denies(text: str) -> bool:
    """Whether a sentence says, in any language that is known here, that it does not know or will not help."""
    if is_unknown(text):
        return True
    lower = " ".join(text.lower().replace("\u2019", "'").split())
    if text.isascii() and not any(sign in lower for sign in particles.UNKNOWN_SIGNS):
        return False
    return particles.UNKNOWN.search(lower) is not None


def question_words(asked: Tokens) -> frozenset[str]:
    """The words of a question in all that they stand for: "kilograms" also for kg."""
    words = {*asked.keys, *asked.raws}
    for stands in asked.answers.values():
        words |= stands
    for key in asked.keys:
        words.update(UNITS.get(key, ()))
    return frozenset(words)


def _polarity(keys: Sequence[str]) -> str:
    if len(keys) != 1:
        return ""
    return "yes" if keys[0] in _YES else "no" if keys[0] in _NO else ""


@lru_cache(maxsize=16384)
def _foil(text: str) -> Foil:
    read = tokens(text)
    code = code_of(read)
    plain = not (code or read.wants) and all(key.isascii() for key in read.keys)
    return Foil(read.keys, read.run(), code, plain)


def _counts(foil: Foil, values: Sequence[Tokens], question: frozenset[str]) -> bool:
    """Whether a foil is more than words of the question, of the value, or words that state nothing."""
    keys = foil.keys
    if not keys or question.issuperset(keys) or EMPTY_WORDS.issuperset(keys):
        return False
    return not any(keys == v.keys or ((foil.run[0] in v.keys or v.answers) and _has(v, foil.run)) for v in values)


def _has(value: Tokens, run: Run) -> bool:
    return any(True for _ in find(value, run))


def _by_first_key(foils: Iterable[Foil]) -> dict[str, tuple[Run, ...]]:
    index: dict[str, tuple[Run, ...]] = {}
    for foil in foils:
        if foil.is_plain:
            index[foil.keys[0]] = (*index.get(foil.keys[0], ()), foil.run)
    return index


def _parts(value: Tokens, question: frozenset[str], others: frozenset[str]) -> Iterator[Part]:
    """The parts of a value: what "and", commas and strokes join, each read by itself."""
    borders = [0]
    for i, key in enumerate(value.keys):
        if i and (key in _TOGETHER or value.gaps[i] in (",", "/")):
            borders.append(i)
    borders.append(len(value.keys))
    spans = []
    for start, end in pairwise(borders):
        start += value.keys[start] in _TOGETHER and start > 0
        if start < end:
            spans.append((start, end))
    for start, end in spans:
        yield _part(value, start, end, question, others)


def _part(value: Tokens, start: int, end: int, question: frozenset[str], others: frozenset[str]) -> Part:
    preposition = ""
    while start < end - 1 and value.keys[start] in LEADING:
        preposition = preposition or value.keys[start]
        start += 1
    run = value.run()[start:end]
    keys, marks = value.keys[start:end], value.marks[start]
    titles = 0
    while titles < len(keys) - 1 and keys[titles] in TITLES:
        titles += 1
    run = tuple(_SAME_TITLE[TITLES[k]] if n < titles else e for n, (k, e) in enumerate(zip(keys, run, strict=True)))
    forms = dict.fromkeys(_forms(run, keys, titles, question, others))
    code = code_of(Tokens(keys, value.raws[start:end], value.gaps[start:end], (), {}, {}))
    owner = "1" if "1" in marks else "3" if "3" in marks else ""
    return Part(
        tuple(forms), code, preposition, owner, TITLES[keys[0]] if titles else "", keys[0][0].isdigit()
    )  # fmt: skip


def _forms(
    run: Run, keys: Sequence[str], titles: int, question: frozenset[str], others: frozenset[str]
) -> Iterator[Form]:
    yield Form((run,))
    for other in (_dated(run, keys, question), *_hyphened(run)):
        yield Form((other,))
    if titles:
        name = run[titles:]
        if keys[-1] not in others:
            yield Form((name,))
            yield Form((name[-1:],))
        elif len(name) > 1:
            yield Form((name,))
        yield Form((run[:titles] + name[-1:],))
    reduced = _reduced(run, keys, question)
    if reduced:
        yield Form(reduced, reduced=True)


def _dated(run: Run, keys: Sequence[str], question: frozenset[str]) -> Run:
    """The run in which a date needs no year, where the question has it."""
    new: list[Element] = []
    for element, key in zip(run, keys, strict=True):
        year, _, rest = key.partition("-")
        is_date = len(year) == 4 and year.isdigit() and len(rest) == 5 and year in question
        new.append(frozenset((key, without_year(key))) if is_date else element)
    return tuple(new)


def without_year(date: str) -> str:
    """ "2023-05-07" as "7 may"."""
    return f"{int(date[8:10])} {MONTHS[int(date[5:7]) - 1]}"


def _hyphened(run: Run) -> Iterator[Run]:
    """The run with a space for each hyphen between letters, and two words with a hyphen for the space."""
    parts: list[Element] = []
    for element in run:
        if isinstance(element, str) and "-" in element and element.replace("-", "").isalpha():
            parts += [p for p in element.split("-") if p]
        else:
            parts.append(element)
    if len(parts) > len(run):
        yield tuple(parts)
    if len(run) == 2 and all(isinstance(e, str) and e.isalpha() and e.isascii() for e in run):
        yield ("-".join(map(str, run)),)


def _reduced(run: Run, keys: Sequence[str], question: frozenset[str]) -> tuple[Run, ...]:
    """What is left of a run without the question's words, in pieces; () where nothing goes or nothing is left."""
    left = [
        key not in question and (not isinstance(e, frozenset) or question.isdisjoint(e))
        for e, key in zip(run, keys, strict=True)
    ]
    content = [kept and key not in EMPTY_WORDS for kept, key in zip(left, keys, strict=True)]
    if all(left) or not any(content):
        return ()
    pieces: list[Run] = []
    at = 0
    while at < len(run):
        end = at
        while end < len(run) and content[end]:
            end += 1
        if end > at:
            pieces.append(run[at:end])
        at = end + 1
    return tuple(pieces)


def content(keys: Iterable[str], question: frozenset[str]) -> list[str]:
    """The words that add something to a question."""
    return [key for key in keys if key not in question and key not in EMPTY_WORDS]
