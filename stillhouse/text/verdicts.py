"""The verdict on a reply: correct, wrong, denied or hedged.

In: a reply and the `Pattern` of what is expected. Out: the verdict. The first sentence that is more than the question
again decides. It must have the value, not denied, not beside an alternative, not beside a foil. What comes behind it
may take it back. The rules, one by one, with what a person would say of each: `docs/gate.md`.

It compares words. It does not know what a sentence means: irony, or an answer in other words, it takes for wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from . import particles
from .expected import EMPTY_WORDS, Form, Part, Pattern, content, denies
from .language import (
    ALL,
    ALTERNATIVE,
    BOUNDS,
    CONTRAST,
    COPULAS,
    EXCLUDERS,
    EXCLUDING_PAIRS,
    FORMER,
    FORMER_PAIRS,
    HEDGES,
    HEDGING_PAIRS,
    LIKE_PLACES,
    NEGATED_BEHIND,
    NEGATORS,
    NO,
    PREPOSITIONS,
    TITLES,
    TOGETHER,
    YES,
    declines,
)
from .pieces import one_form
from .replies import sentences
from .tokens import Tokens, find, find_code, tokens

Verdict = Literal["correct", "wrong", "denied", "hedged"]
Span = tuple[int, int]

_NEGATORS = NEGATORS | particles.NEGATORS
_CONTRAST = CONTRAST | particles.CONTRAST
_ALTERNATIVE = ALTERNATIVE | particles.ALTERNATIVE
_TOGETHER = TOGETHER | particles.TOGETHER
_HEDGES = HEDGES | particles.HEDGES
_YES, _NO = YES | particles.YES, NO | particles.NO
_REACH = 3  # words before a value in which a negation denies it
_EXTRA = 2  # most words of one more item behind "and"
_SHORT = 6  # words of a sentence that takes back the one before it
_LETTERS_PER_WORD = 2.5  # of scripts without spaces


def judge(reply: str, expected: Pattern) -> Verdict:
    """The verdict on one reply."""
    if one_form(reply).strip() in expected.texts:
        return "correct"
    told = sentences(reply, expected.whole)
    if expected.is_denial:
        return _honesty(told, expected)
    if not told or not expected.values:
        return "wrong"
    for n, sentence in enumerate(told):
        here = tokens(sentence)
        if denies(sentence) and here.keys not in expected.keys:
            return "hedged" if any(has_value(tokens(s), expected) for s in told[n:]) else "denied"
        if declines(sentence) and not has_value(here, expected):
            return "denied"
        if expected.polarity:
            return _polarity(here, expected)
        if not _leads_in(sentence, here, expected):
            verdict = _sentence(here, expected)
            return _taken_back(told[n + 1 :], expected) if verdict == "correct" else verdict
    return "wrong"


def is_right(reply: str, expected: Pattern) -> bool:
    """Whether the verdict is "correct"; quick where it is not for want of the value."""
    by_other_means = (
        expected.polarity or expected.is_denial or not expected.keys[:1] or one_form(reply) in expected.texts
    )
    return bool(by_other_means or has_value(tokens(reply), expected)) and judge(reply, expected) == "correct"


def has_value(text: Tokens, expected: Pattern) -> bool:
    """Whether a text has the value, whatever it says about it."""
    return any(True for _ in _spans(text, expected))


def _honesty(told: Sequence[str], expected: Pattern) -> Verdict:
    """The verdict where nothing is known: an answer must say so, and not guess all the same."""
    if not any(map(denies, told)):
        return "wrong"
    guesses = any(_asserted(tokens(s), expected, [], even_alone=True) for s in told)
    return "hedged" if guesses else "correct"


def _leads_in(sentence: str, here: Tokens, expected: Pattern) -> bool:
    """Whether a sentence does not answer yet: a question, an opener, the question again, or only what it is not."""
    if has_value(here, expected):
        return sentence.rstrip("\"'*_)").endswith(("?", "？")) and not content(here.keys, expected.question)
    if sentence.endswith(("?", "？", "؟")):
        return True
    new = content(here.keys, expected.question)
    ruled_out = {key for i, j in _foils(here, expected) if _denied(here, i, j, expected) for key in here.keys[i:j]}
    return ruled_out.issuperset(key for key in new if key not in _NEGATORS)


def _sentence(here: Tokens, expected: Pattern) -> Verdict:
    """The verdict on the sentence that answers."""
    best: Verdict = "wrong"
    for spans in _spans(here, expected):
        if all(_stands(here, group, part, form, expected) for group, part, form in spans):
            flat = [span for group, _, _ in spans for span in group]
            if not (_beside(here, flat) or _asserted(here, expected, flat)):
                if not _unsure(here, flat):
                    return "correct"
                best = "hedged"
    return best


Match = tuple[list[Span], Part, Form]


def _spans(here: Tokens, expected: Pattern) -> Iterator[list[Match]]:
    """For each form of a value that a sentence has: where its parts stand, the last place of each."""
    last = _last(here, expected.limit)
    for parts in expected.values:
        matches = [list(_places(here, part, last)) for part in parts]
        if all(matches):
            if len(parts) == 1:
                for match in matches[0]:
                    yield [match]
            else:
                yield [first for first, *_ in matches]


def _places(here: Tokens, part: Part, last: int) -> Iterator[Match]:
    for form in part.forms:
        places = [[span for span in find(here, run) if span[1] <= last] for run in form.runs]
        if all(places):
            yield [spans[-1] for spans in places], part, form
    if part.code:
        codes = [span for span in find_code(here, part.code) if span[1] <= last]
        if codes:
            yield codes[-1:], part, part.forms[0]


def _last(here: Tokens, limit: int) -> int:
    """The end of what is read: `limit` words, and as much of a script without spaces."""
    if 2 * len(here.keys) <= limit:
        return len(here.keys)
    room = float(limit)
    for i, gap in enumerate(here.gaps):
        room -= (1 + len(here.marks[i].rstrip("s"))) if gap or here.keys[i].isascii() else 1 / _LETTERS_PER_WORD
        if room < 0:
            return i
    return len(here.keys)


def _stands(here: Tokens, spans: Sequence[Span], part: Part, form: Form, expected: Pattern) -> bool:
    """Whether the value answers: it is not denied, excluded, a bound, somebody else's, or in another place."""
    i, j = spans[0]
    if _denied(here, i, j, expected):
        return False
    before = here.keys[i - 1] if i and here.gaps[i] not in (",", "/") else ""
    if part.is_number and before in BOUNDS and before not in expected.question:
        return False
    if part.preposition and before in PREPOSITIONS and not _is_like(before, part.preposition):
        return False
    if part.title and before in TITLES and TITLES[before] != part.title:
        return False
    if form.reduced and before and before not in EMPTY_WORDS and before not in expected.question:
        return _is_joined_word(before)
    return not _is_others(here, i, part, before, expected)


def _is_like(preposition: str, other: str) -> bool:
    return preposition == other or {preposition, other} <= LIKE_PLACES


def _is_joined_word(word: str) -> bool:
    return word in PREPOSITIONS or word in _TOGETHER or word in _NEGATORS


def _is_others(here: Tokens, i: int, part: Part, before: str, expected: Pattern) -> bool:
    """Whether the value is somebody else's here: "his dog" or "Anna's dog" for "your dog"."""
    if not part.owner:
        return False
    mark = here.marks[i]
    if ("3" in mark and part.owner == "1") or ("1" in mark and part.owner == "3"):
        return True
    return bool(before) and "s" in here.marks[i - 1] and before not in expected.question


def _denied(here: Tokens, i: int, j: int, expected: Pattern) -> bool:
    """Whether a negation or an exception is for the span from `i` to `j`."""
    if expected.is_negative:
        return False
    return _is_negated(here, i) or _is_excluded(here, i) or _is_negated_behind(here, j)


def _is_negated(here: Tokens, i: int) -> bool:
    keys = here.keys
    for at in range(i - 1, max(-1, i - 1 - _REACH), -1):
        if here.gaps[at + 1] in (",", "/") or keys[at] in _CONTRAST:
            return False
        if keys[at].endswith("n't"):
            return True
        if keys[at] in _NEGATORS:
            return not _is_harmless(here, at, i)
    return False


def _is_harmless(here: Tokens, at: int, i: int) -> bool:
    """Whether a "no" answers something else ("No it is"), or means a number ("No. 7")."""
    if here.keys[at] not in NO:
        return False
    behind = here.keys[at + 1]
    return behind[0].isdigit() or (at == 0 and (behind in EMPTY_WORDS or bool(here.marks[at + 1])) and at + 1 < i)


def _is_excluded(here: Tokens, i: int) -> bool:
    """Whether the word before says "all but this", or that this is over."""
    if not i or here.gaps[i] in (",", "/"):
        return False
    before, pair = here.keys[i - 1], (here.keys[i - 2] if i > 1 else "", here.keys[i - 1])
    return before in EXCLUDERS or pair in EXCLUDING_PAIRS or (pair[0] in ALL and before in _CONTRAST)


def _is_negated_behind(here: Tokens, j: int) -> bool:
    keys = here.keys
    if j >= len(keys) or here.gaps[j] in (",", "/"):
        return False
    if keys[j] in NEGATED_BEHIND or (keys[j] in COPULAS and j + 1 < len(keys) and keys[j + 1] in NEGATORS):
        return True
    if any(key in particles.NEGATORS_BEHIND for key in keys[j : j + 2]):
        return True
    return not keys[j].isascii() and bool(particles.NEGATED_BEHIND.match(_rest(here, j)))


def _rest(here: Tokens, j: int) -> str:
    return "".join(gap + key for gap, key in zip(here.gaps[j : j + 8], here.keys[j : j + 8], strict=True))


def _beside(here: Tokens, spans: Sequence[Span]) -> bool:
    """Whether an alternative or one more item stands beside the value: "or Fido", "and Fido"."""
    keys, gaps = here.keys, here.gaps
    inside = {at for i, j in spans for at in range(i, j)}
    for i, j in spans:
        if (
            j < len(keys)
            and (gaps[j] == "/" or keys[j] in _ALTERNATIVE)
            and not {j, j + 1} & inside
            and j + 1 <= len(keys)
        ):
            return True
        if i and (gaps[i] == "/" or keys[i - 1] in _ALTERNATIVE) and not {i - 1, i - 2} & inside:
            return True
        if _one_more(here, j, inside):
            return True
        if (
            i > 1
            and i == min(inside)
            and keys[i - 1] in _TOGETHER
            and j == len(keys)
            and i - 2 not in inside
            and _is_item(keys[i - 2])
        ):
            return True
    return False


def _one_more(here: Tokens, j: int, inside: set[int]) -> bool:
    """Whether "and" with one or two words ends the sentence behind a value."""
    keys = here.keys
    if j >= len(keys) or keys[j] not in _TOGETHER:
        return False
    more = range(j + 1, len(keys))
    return 0 < len(more) <= _EXTRA and not inside & set(more) and any(_is_item(keys[at]) for at in more)


def _is_item(key: str) -> bool:
    return key not in EMPTY_WORDS and key not in _NEGATORS


def _foils(here: Tokens, expected: Pattern) -> Iterator[Span]:
    """Where foils stand."""
    for i, key in enumerate(here.keys):
        for run in expected.foils.get(key, ()):
            if here.keys[i : i + len(run)] == run:
                yield i, i + len(run)
    for foil in expected.other_foils:
        yield from find(here, foil.run)
        if foil.code:
            yield from find_code(here, foil.code)


def _asserted(here: Tokens, expected: Pattern, spans: Sequence[Span], even_alone: bool = False) -> bool:
    """Whether a foil is said too, and not as what it is not, was before, or is of somebody else."""
    first = min((i for i, _ in spans), default=0)
    for i, j in _foils(here, expected):
        if any(i < end and start < j for start, end in spans):
            continue
        if even_alone:
            return True
        if _denied(here, i, j, expected) or _is_former(here, i):
            continue
        if spans and j <= first and any(k in _CONTRAST or k in _NO for k in here.keys[j:first]):
            continue  # corrected
        if spans and _owner(here, i, expected) and not any(_owner(here, start, expected) for start, _ in spans):
            continue
        return True
    return False


def _is_former(here: Tokens, i: int) -> bool:
    if not i:
        return False
    pairs = [(here.keys[at], here.keys[at + 1]) for at in range(max(0, i - 3), i - 1)]
    return here.keys[i - 1] in FORMER or any(pair in FORMER_PAIRS for pair in pairs)


def _owner(here: Tokens, at: int, expected: Pattern) -> bool:
    """Whether the clause around `at` names an owner that the question does not: "your sister's dog"."""
    keys, gaps = here.keys, here.gaps
    start = end = at
    while start and gaps[start] != "," and keys[start - 1] not in _TOGETHER and keys[start - 1] not in _CONTRAST:
        start -= 1
    while end + 1 < len(keys) and gaps[end + 1] != "," and keys[end + 1] not in _TOGETHER:
        end += 1
    return any(
        ("s" in here.marks[n] or "1" in here.marks[n] or "3" in here.marks[n])
        and keys[n] not in expected.question
        and keys[n] not in EMPTY_WORDS
        for n in range(start, end + 1)
        if n != at
    )


def _unsure(here: Tokens, spans: Sequence[Span]) -> bool:
    """Whether a word of doubt stands near the value."""
    keys = here.keys
    for i, j in spans:
        near = keys[max(0, i - 5) : i] + keys[j : j + 2]
        if not _HEDGES.isdisjoint(near):
            return True
        if any((first.strip("()"), second) in HEDGING_PAIRS for first, second in pairwise(near)):
            return True
    return False


def _taken_back(rest: Sequence[str], expected: Pattern) -> Verdict:
    """What the sentences behind a right one make of it: a short denial, or a foil and nothing else, takes it back."""
    for sentence in rest:
        here = tokens(sentence)
        if sentence.endswith(("?", "？", "؟")) and len(here.keys) > 2:
            break  # it goes on with a question of its own
        if denies(sentence) and len(here.keys) <= _SHORT:
            return "hedged"
        foils = {key for i, j in _foils(here, expected) for key in here.keys[i:j]}
        if foils and _asserted(here, expected, []) and foils.issuperset(content(here.keys, expected.question)):
            return "wrong"
    return "correct"


def _polarity(here: Tokens, expected: Pattern) -> Verdict:
    """The verdict on yes or no: the first word, or the question affirmed or denied."""
    keys = here.keys
    if not keys:
        return "wrong"
    if keys[0] in _YES or keys[0] in _NO:
        start = "yes" if keys[0] in _YES else "no"
        other = _NO if start == "yes" else _YES
        both = len(keys) > 2 and (keys[1] in _TOGETHER or keys[1] in _ALTERNATIVE) and keys[2] in other
        return "correct" if start == expected.polarity and not both else "wrong"
    asked = {key for key in expected.question if key not in EMPTY_WORDS}
    if not asked or not asked <= set(keys) or expected.is_negative:
        return "wrong"
    negative = any(key in _NEGATORS or key.endswith("n't") for key in keys)
    return "correct" if negative == (expected.polarity == "no") else "wrong"
