"""A sentence as tokens in one form, and where one run of tokens stands in another.

In: text. Out: `Tokens`, without articles and possessive pronouns, which stay as marks of the token behind them. A run
is found as whole tokens one behind the other, never inside a word; in scripts without spaces, as whole characters.

It knows no verdicts. It knows no forms of a word: "dogs" is not "dog", and Russian cases differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from . import particles
from .language import ARTICLES, CONTRACTED, NOT_BEHIND_AN_ARTICLE, OWN, THEIRS
from .numbers import Row, has_numbers, put_together
from .pieces import one_form, pieces

Element = str | frozenset[str]
Run = tuple[Element, ...]

_KATAKANA = re.compile(r"[\u30a1-\u30ff]")
_KANA = re.compile(r"[\u3041-\u30ff]")
_HAN = re.compile(r"[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_HANGUL = re.compile(r".*[\uac00-\ud7a3]")
_SHORTEST_CODE = 3  # characters of a code whose spaces do not count


class Tokens(NamedTuple):
    """A sentence's tokens. All are as long as `keys`."""

    keys: tuple[str, ...]
    raws: tuple[str, ...]
    gaps: tuple[str, ...]
    """What stands before each: "", " ", "," (a clause's sign) or "/"."""
    marks: tuple[str, ...]
    """"a" an article, "1" my, your or our, "3" another possessive pronoun before it; "s" an owner's ending at it."""
    answers: dict[int, frozenset[str]]
    """What a token can stand for, where that is more than its key."""
    wants: dict[int, frozenset[str]]
    """Any of what an answer must have for a token, where it is expected, and more than its key will do."""

    def run(self) -> Run:
        """The run that an answer must have."""
        return tuple(self.wants.get(i, key) for i, key in enumerate(self.keys))


@lru_cache(maxsize=16384)
def tokens(text: str) -> Tokens:
    """The tokens of `text`. A text of articles alone keeps them, as does one that ends with one: "vitamin A"."""
    row = Row([], [])
    before = " "
    for chunk in one_form(text).split():
        parts, behind = pieces(chunk)
        for gap, piece in parts:
            row.pieces.append(piece)
            row.gaps.append(before if before != " " and gap == " " else gap)
            before = " "
        before = behind if behind != " " or not parts else " "
        if not parts and before == " ":
            before = ","
    if has_numbers(row):
        put_together(row)
    return _without_articles(row)


def _without_articles(row: Row) -> Tokens:
    kept: list[int] = []
    marks: list[str] = []
    mark = ""
    last = len(row.pieces) - 1
    for i, piece in enumerate(row.pieces):
        key = piece.key
        if key in ARTICLES and i < last and _is_article(row, i):
            mark += "a"
        elif (key in OWN or key in THEIRS) and i < last and row.joined(i + 1):
            mark += "1" if key in OWN else "3"
        else:
            kept.append(i)
            marks.append(mark + ("s" if piece.mark == "s" and key not in CONTRACTED else ""))
            mark = ""
    here = [row.pieces[i] for i in kept]
    return Tokens(
        tuple([p.key for p in here]),
        tuple([p.raw for p in here]),
        tuple([_gap(row, kept, n) for n in range(len(kept))]),
        tuple(marks),
        {n: p.answers for n, p in enumerate(here) if p.answers},
        {n: p.wants for n, p in enumerate(here) if p.wants},
    )


def _gap(row: Row, kept: Sequence[int], n: int) -> str:
    """What stands before a kept token: the strongest sign since the one before it."""
    since = row.gaps[kept[n - 1] + 1 if n else 0 : kept[n] + 1]
    return max(since, key=("", " ", "/", ",").index)


def _is_article(row: Row, i: int) -> bool:
    behind = row.key(i + 1)
    if not row.joined(i + 1) or behind in NOT_BEHIND_AN_ARTICLE:
        return False
    return row.key(i) == "the" or not row.pieces[i + 1].raw[0].isdigit()


def find(tokens: Tokens, run: Run) -> Iterator[tuple[int, int]]:
    """Where `run` stands in `tokens`: `(start, end)` of each place."""
    if not run:
        return
    keys, answers, length = tokens.keys, tokens.answers, len(run)
    if not answers and all(isinstance(e, str) for e in run) and not _HANGUL.match(str(run[-1])):
        first = run[0]
        for i in range(len(keys) - length + 1):
            if keys[i] == first and keys[i : i + length] == run and _is_whole(tokens, i, i + length):
                yield i, i + length
        return
    for i in range(len(keys) - length + 1):
        if all(_meets(tokens, i + n, e, n == length - 1) for n, e in enumerate(run)) and _is_whole(
            tokens, i, i + length
        ):
            yield i, i + length


def _meets(tokens: Tokens, i: int, wanted: Element, last: bool) -> bool:
    key = tokens.keys[i]
    stands = tokens.answers.get(i)
    if isinstance(wanted, str):
        if key == wanted or (stands is not None and wanted in stands):
            return True
        return (
            last and bool(_HANGUL.match(wanted)) and key.startswith(wanted) and key[len(wanted) :] in particles.ATTACHED
        )
    return key in wanted or (stands is not None and not wanted.isdisjoint(stands))


def _is_whole(tokens: Tokens, i: int, j: int) -> bool:
    """Whether characters of scripts without spaces do not go on with a word: katakana, and Japanese Han in front."""
    keys, gaps = tokens.keys, tokens.gaps
    if keys[i].isascii():
        return True
    if i and gaps[i] == "":
        if _KATAKANA.match(keys[i]) and _KATAKANA.match(keys[i - 1]):
            return False
        if _HAN.match(keys[i]) and _HAN.match(keys[i - 1]) and any(map(_KANA.match, keys)):
            return False
    return not (j < len(keys) and gaps[j] == "" and _KATAKANA.match(keys[j - 1]) and _KATAKANA.match(keys[j]))


def find_code(tokens: Tokens, code: str) -> Iterator[tuple[int, int]]:
    """Where `code` stands in `tokens` with spaces in other places."""
    raws, gaps = tokens.raws, tokens.gaps
    for i, raw in enumerate(raws):
        if not code.startswith(raw):
            continue
        built, j = raw, i + 1
        while j < len(raws) and gaps[j] in ("", " ") and len(built) < len(code):
            built += raws[j]
            j += 1
        if built == code:
            yield i, j


def code_of(tokens: Tokens) -> str:
    """The tokens without spaces, where they are a code or a number in groups; else ""."""
    code = "".join(tokens.raws)
    is_code = (
        len(code) >= _SHORTEST_CODE + code.isdigit() and any(c.isdigit() for c in code) and "," not in tokens.gaps[1:]
    )
    return code if is_code and code.isascii() else ""
