"""Names of several words: titles, initials, particles, capital letters.

In: a text, and a place where a word begins. Out: where the name that begins there ends, and where it may begin too:
"Uncle Bob" is a name, and so is "Bob". A single word is no name of several words. The words that decide stand in
`value_words.txt`. Text without small letters has no names: capital letters tell nothing there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .value_words import pattern, words

LONGEST = 12  # words
_WORD = re.compile(r"[^\W\d_](?:['’.-]?[^\W\d_]){0,40}")
_NUMERAL = re.compile(r"(?:II|III|IV|VI{0,3}|IX|XI{0,3}|XIV|XV|XVI)\b")
_PARTICLE = re.compile(rf"(?:{pattern('particles')}\s|[ld]['’]|&\s|\+\s|of\s(?:the\s)?)")
_ELIDED = re.compile(r"[LlDd]['’]")
_SPACE = re.compile(r"[ \t\u00a0\u202f]{1,2}")
_ANY_SPACE = re.compile(r"[ \t\u00a0\u202f]{0,2}\n?[ \t\u00a0\u202f]{0,8}")
_LABEL = re.compile(rf"\b{pattern('lettered')}(?:\s(?:is|was|ist|:))?[ :]\s?$", re.IGNORECASE)
_NAME_END = re.compile(rf",?\s{pattern('name endings')}\b\.?", re.IGNORECASE)


@dataclass(frozen=True)
class Name:
    """Where a name ends; `inner`: where it begins without the words that need not belong to it."""

    end: int
    inner: int
    sure: bool = True  # False in small letters: "dr. amara okafor" shows where the name begins, not where it ends


def name(text: str, start: int, nouns: bool) -> Name | None:
    """The name of several words that begins at `start`. `nouns`: the language writes every noun with a capital letter,
    and `start` stands behind an article, so that its first word is a noun."""
    position, inner, end = start, start, 0
    titles = capitals = 0
    sure = True
    for _ in range(LONGEST):
        word = _WORD.match(text, position)
        if word is None:
            break
        sort = _sort(text, word, titles, capitals)
        if sort == "title":
            titles += 1
            position = _behind_title(text, word.end())
        elif sort == "initial":
            capitals += 1
            end, position = word.end() + 1, _behind_title(text, word.end())
        elif sort == "soft":
            inner = _behind(text, word.end()) if not capitals and not titles else inner
            capitals, end, position = capitals + 1, word.end(), _behind(text, word.end())
        elif sort == "name" or (titles and not capitals and sort == "small"):
            capitals, end = capitals + 1, word.end()
            position = _behind(text, end)
            if sort == "small":
                sure = False
                break
        else:
            break
        if position == word.end():
            break
        position = _over_particle(text, position) if capitals else position
    if not capitals or titles + capitals < 2:
        return None
    return Name(_finished(text, end), inner, sure)


def _finished(text: str, end: int) -> int:
    """The end of a name with its numeral or last word ("Jr"), without a possessive or a sentence's full stop."""
    if (numeral := _NUMERAL.match(text, _behind(text, end))) is not None:
        end = numeral.end()
    if (ending := _NAME_END.match(text, end)) is not None:
        end = ending.end() - ending[0].endswith(".")
    if text[end - 1] == "." and not _is_initial(text, end - 2):
        end -= 1
    return end - 2 if text[end - 2 : end] in ("'s", "’s") else end


def _sort(text: str, word: re.Match[str], titles: int, capitals: int) -> str:
    """What a word may be in a name: "title", "soft" (a title that may be left out), "initial", "name", "small"."""
    plain, dot = word[0].lower(), text[word.end() : word.end() + 1] == "."
    if plain in words("titles") and (dot or word[0][0].isupper() or len(plain) > 1) and _followed(text, word, dot):
        return "title"
    if len(word[0]) == 1 and dot and (word[0].isupper() or titles):
        return "" if _LABEL.search(text[max(0, word.start() - 24) : word.start()]) else "initial"
    if plain in words("openers") or (plain in words("months") and not capitals):
        return ""
    if (elided := _ELIDED.match(word[0])) is not None and word[0][elided.end()].islower():
        return ""
    if word[0][0].isupper():
        return "soft" if plain in words("soft titles") else "name"
    return "small"


def _followed(text: str, word: re.Match[str], dot: bool) -> bool:
    """Whether a title has a name behind it: any word behind a full stop, else a capital letter."""
    after = _WORD.match(text, _behind_title(text, word.end()))
    if after is None or after.start() == word.end():
        return False
    return after[0][0].isupper() or (dot and not word[0][0].isupper())


def _is_initial(text: str, at: int) -> bool:
    return at >= 0 and text[at].isupper() and (at == 0 or not text[at - 1].isalpha())


def _behind(text: str, end: int) -> int:
    """The place of the next word of a name, or `end`."""
    space = _SPACE.match(text, end)
    return space.end() if space else end


def _behind_title(text: str, end: int) -> int:
    """The same behind a title or an initial, where a line may end, and where no space need stand: "J.R.R."."""
    end += text[end : end + 1] == "."
    space = _ANY_SPACE.match(text, end)
    return space.end() if space else end


def _over_particle(text: str, position: int) -> int:
    """Behind the particle at `position` ("van der", "&"), if a capital letter follows there."""
    here = position
    for _ in range(3):
        particle = _PARTICLE.match(text, here)
        if particle is None:
            break
        here = particle.end()
    return here if text[here : here + 1].isupper() else position
