"""Which statements a later one replaces: the same thing of the same owner with another value.

In: statements in order, and for fields and rows their keys with values. Out: `Update`s. The later one holds: by their
dates where both have one, else by their places. It is careful: two statements that can both be true are no update. A
field has the same key under the same headings, and something else between the two. A sentence is alike up to its value,
and says that things changed ("now", "was changed to", "jetzt", "moved to") or is about what one has only one of (`one
value` in `reading/words.txt`). Statements of different people or under different headings are never compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from ..records import Statement, Update
from .language import RENAMED, ended, plain_forms
from .reading.words import words

COMPARED = 200  # statements that begin alike, at most
LONGEST_VALUE = 8  # words
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:[-'’.@_:/+][^\W_]+)*")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_CLAUSE = re.compile(r"[,;(–—]|\s-\s|\.\s")
_WEEKDAY_OR_TIME = re.compile(
    r"\d|^(?:mon|tue|wed|thu|fri|sat|sun|montag|dienstag|mittwoch|donnerstag|freitag|samstag|sonntag)", re.IGNORECASE
)


@dataclass(frozen=True)
class Slot:
    """What a field or row gives a value of; empty for a sentence."""

    key: str = ""
    value: str = ""
    table: bool = False
    wide: bool = False
    """Whether it is a row of more than two cells; `value` is all of them."""


@dataclass(frozen=True)
class _Fact:
    """A statement as it is compared."""

    statement: Statement
    slot: Slot
    raw: tuple[str, ...]
    """Its words as they are written."""
    tokens: tuple[str, ...]
    """The same without regard to case."""
    changes: bool
    """Whether it says that things changed."""
    rewritten: bool = False
    """Whether it is what a sentence about a change comes to."""


def updates(statements: Sequence[Statement], slots: Sequence[Slot]) -> tuple[Update, ...]:
    """The statements that others replace, each once, in order of their places."""
    replaced: dict[int, int] = {}
    facts = [(s, slot) for s, slot in zip(statements, slots, strict=True) if not s.instruction]
    for earlier, later in (*_of_fields(facts), *_of_sentences(facts)):
        first, last = _in_time(statements[earlier], statements[later])
        if replaced.get(first, -1) != last and not _leads_to(replaced, last, first):
            replaced[first] = last
    return tuple(Update(earlier, _final(replaced, later)) for earlier, later in sorted(replaced.items()))


def _in_time(a: Statement, b: Statement) -> tuple[int, int]:
    """The two by their dates, where both have one; else as they stand."""
    if _ISO.fullmatch(a.context.date) and _ISO.fullmatch(b.context.date) and a.context.date > b.context.date:
        return b.index, a.index
    return a.index, b.index


def _leads_to(replaced: dict[int, int], start: int, goal: int) -> bool:
    while start in replaced:
        start = replaced[start]
        if start == goal:
            return True
    return start == goal


def _final(replaced: dict[int, int], index: int) -> int:
    while index in replaced:
        index = replaced[index]
    return index


def _of_fields(facts: Sequence[tuple[Statement, Slot]]) -> Iterator[tuple[int, int]]:
    """Fields and rows with one key: each replaces the one before it, unless they stand side by side as a list does."""
    last: dict[tuple[object, ...], tuple[Statement, Slot]] = {}
    beside: tuple[object, ...] | None = None
    for statement, slot in facts:
        key = _key(statement, slot)
        if key is not None:
            before = last.get(key)
            if before is not None and _differ(before[1], slot):
                dated = {statement.context.date, before[0].context.date}
                if key != beside or (len(dated) == 2 and "" not in dated):
                    yield before[0].index, statement.index
            last[key] = (statement, slot)
        beside = key


def _differ(a: Slot, b: Slot) -> bool:
    """Whether two values of one key differ: of wider rows, in one cell."""
    if not a.wide:
        return a.value.casefold() != b.value.casefold()
    cells = [x.casefold() == y.casefold() for x, y in zip(a.value.split("; "), b.value.split("; "), strict=False)]
    return a.value.count("; ") == b.value.count("; ") and cells.count(False) == 1


def _key(statement: Statement, slot: Slot) -> tuple[object, ...] | None:
    if not slot.key or (slot.table and _WEEKDAY_OR_TIME.search(slot.key)):
        return None
    return (slot.key.casefold(), slot.table, statement.context.headings, statement.context.speaker)


def _of_sentences(facts: Sequence[tuple[Statement, Slot]]) -> Iterator[tuple[int, int]]:
    """Sentences that are alike up to a value."""
    known = _Known()
    for statement, slot in facts:
        if not slot.key:
            forms = list(_forms(statement, slot))
            for other in known.replaced_by(statement, forms):
                yield other.index, statement.index
            known.add(statement, forms)


class _Known:
    """The sentences so far, by how they begin."""

    def __init__(self) -> None:
        self.beginning: dict[tuple[object, ...], list[_Fact]] = defaultdict(list)
        self.frames: dict[tuple[object, ...], _Fact] = {}
        self.ending: dict[tuple[object, ...], Statement] = {}

    def add(self, statement: Statement, forms: Sequence[_Fact]) -> None:
        """One more."""
        where = _where(statement)
        for fact in forms:
            self.beginning[(where, fact.tokens[:2])].append(fact)
            if frame := _frame(fact.tokens):
                self.frames[(where, frame)] = fact
        if forms[0].tokens:
            self.ending[(where, forms[0].tokens[-1])] = statement

    def replaced_by(self, statement: Statement, forms: Sequence[_Fact]) -> Iterator[Statement]:
        """Those that a statement replaces."""
        where = _where(statement)
        renamed = RENAMED.match(statement.text)
        if renamed is not None and (old := self.ending.get((where, renamed["old"].casefold()))) is not None:
            yield old
        for fact in forms:
            alike = self.beginning[(where, fact.tokens[:2])][-COMPARED:] if fact.changes else []
            yield from (other.statement for other in alike if _conflict(other, fact) and not _is_event(other))
            frame = _frame(fact.tokens)
            one = self.frames.get((where, frame)) if frame else None
            if one is not None and _replaces(one, fact, len(frame)):
                yield one.statement
        past = _lower(_words(ended(statement.text)))
        alike = self.beginning[(where, past[:2])][-COMPARED:] if past else []
        yield from (other.statement for other in alike if _covers(past, other.tokens))


def _where(statement: Statement) -> tuple[object, ...]:
    return (statement.context.headings, statement.context.speaker)


def _replaces(known: _Fact, fact: _Fact, frame: int) -> bool:
    short = len(fact.tokens) - frame <= LONGEST_VALUE
    return known.tokens != fact.tokens and short and known.statement is not fact.statement and not _is_event(known)


def _is_event(fact: _Fact) -> bool:
    """Whether a sentence tells of a change in some year: that stays true."""
    return fact.rewritten and _YEAR.search(fact.statement.text) is not None


def _forms(statement: Statement, slot: Slot) -> Iterator[_Fact]:
    """A statement as a plain fact; several where it tells of a change."""
    text = statement.text
    signs = [] if text.isascii() else [sign for sign in words("now, in signs") if sign in text]
    for sign in signs:
        text = text.replace(sign, "")
    raw = _words(text)
    kept = _without_now(raw)
    yield _Fact(statement, slot, kept, _lower(kept), bool(signs) or len(kept) < len(raw))
    for form in plain_forms(statement.text):
        kept = _without_now(_words(form))
        yield _Fact(statement, slot, kept, _lower(kept), True, True)


def _words(text: str) -> tuple[str, ...]:
    """The words of a sentence up to its first clause."""
    clause = _CLAUSE.split(text[:600], maxsplit=1)[0] if len(text) > 20 else text
    return tuple(_TOKEN.findall(clause)[:40])


def _lower(raw: Sequence[str]) -> tuple[str, ...]:
    return tuple(token.casefold() for token in raw)


def _without_now(raw: Sequence[str]) -> tuple[str, ...]:
    return tuple(token for token in raw if token.casefold() not in words("now"))


def _conflict(earlier: _Fact, later: _Fact) -> bool:
    """Whether two sentences, the later one about a change, are one but for a value."""
    a, b = earlier.tokens, later.tokens
    same = _common(a, b)
    rest_a, rest_b = a[same:], b[same:]
    tail = _common(rest_a[::-1], rest_b[::-1])
    end = rest_a[len(rest_a) - tail :]
    value_a, value_b = rest_a[: len(rest_a) - tail], rest_b[: len(rest_b) - tail]
    if not value_a or not value_b or max(len(value_a), len(value_b)) > LONGEST_VALUE or len(end) > 2:
        return False
    if set(value_a) & set(value_b) or set(end) & words("unfinished"):
        return False
    verb = bool(set(a[:same]) & words("copulas"))
    if same < 3 - verb or (value_a[0] in words("unfinished") and value_b[0] in words("unfinished")):
        return False
    shapes = {_shape(earlier.raw[same]), _shape(later.raw[same])}
    if later.rewritten or shapes == {"number"}:
        return True
    return len(shapes) == 1 and (same > 2 or shapes == {"name"})


def _frame(tokens: Sequence[str]) -> tuple[str, ...]:
    """The words before the value, where a thing has one value at a time: "the wifi password is", "I live in"."""
    for i, token in enumerate(tokens[:12]):
        if i and token in words("copulas"):
            return tuple(tokens[: i + 1]) if tokens[i - 1].endswith(_one_value()) else ()
        if token in words("one value verbs"):
            follows = i + 1 < len(tokens) and tokens[i + 1] in words("unfinished")
            return tuple(tokens[: i + 2]) if follows else ()
    return ()


def _shape(word: str) -> str:
    """What kind of value a word begins: "number", "name" or "word"."""
    return "number" if re.search(r"\d", word) else "name" if word[0].isupper() else "word"


def _has_one_value(frame: Sequence[str], end: Sequence[str]) -> bool:
    """Whether a sentence's words before its value speak of something that has one value: "The wifi password is"."""
    verb = next((i for i, token in enumerate(frame) if token in words("copulas")), None)
    if any(token in words("one value verbs") for token in frame) and not end:
        return frame[-1] in words("unfinished") or frame[-1] in words("one value verbs")
    if verb is None or verb != len(frame) - 1:
        return False
    return any(token.endswith(tuple(words("one value"))) for token in frame[max(0, verb - 1) : verb])


def _covers(past: Sequence[str], told: Sequence[str]) -> bool:
    """Whether what has ended is what was told: its words are all in it."""
    content = [token for token in past if token not in words("unfinished") and token not in words("copulas")]
    known = {*told, *(token.rstrip("s") for token in told)}
    return len(content) >= 2 and all(t in known or t.rstrip("s") in known for t in content) and past[:1] == told[:1]


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


@cache
def _one_value() -> tuple[str, ...]:
    return tuple(words("one value"))
