"""When two short answers are the same.

In: two answers as text. Out: whether they state the same fact. It compares words; it knows no model.
"""

from __future__ import annotations

import re
import unicodedata

from .english.refusals import is_unknown

_SIGNS = re.compile(r"((?<!\S)-(?=\d)|(?<=\w)(?:[+#]+|-)(?!\S))|[-+#]")  # the ones that belong to a word, and the rest


_NO_SIGN = re.compile(r"[^a-z0-9_.:,+#-]")  # what is none of `_lettered`'s, in ASCII


_DROPPED = frozenset("a an the my your our its his her their is are in on at".split())


def normalise(answer: str) -> str:
    """One form for an answer: lower case, NFKC, words alone, without articles, possessives or locating words.

    The same idea as SQuAD's answer normalisation (Rajpurkar et al. 2016), widened by the words that change when a
    statement about "my dog" is answered with "your dog", and kept from joining different facts: signs that belong to
    a word (C++, C#, A-, -5), dots inside numbers (7:30, 10.0.0.1) and vowel signs of Indic scripts stay. An answer of
    dropped words alone ("A") keeps them.
    """
    words = _words(answer)
    return " ".join([w for w in words if w not in _DROPPED] or words)


def same_answer(answer: str, expected: str) -> bool:
    """Exact match after `normalise`. An empty normalised answer matches nothing but the literal same text."""
    left, right = normalise(answer), normalise(expected)
    return left == right if left and right else answer.strip() == expected.strip()


def says(answer: str, expected: str) -> bool:
    """Whether `expected` stands in `answer` as whole words: for teachers that answer in full sentences."""
    needle, words = normalise(expected), _words(answer)
    kept = words if set(needle.split()) <= _DROPPED else [w for w in words if w not in _DROPPED]
    return bool(needle) and f" {needle} " in f" {' '.join(kept)} " and not is_unknown(answer)


def _words(text: str) -> list[str]:
    text = _NO_SIGN.sub(" ", text.lower()) if text.isascii() else _lettered(text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 12,500 is 12500
    text = re.sub(r"(?<=\d)[:.,](?=\d)", ".", text)  # 7:30 and 10.0.0.1 stay one word
    text = re.sub(r"(?<!\d)[:.,]|[:.,](?!\d)", " ", text)
    return _SIGNS.sub(lambda sign: sign[1] or " ", text).split()


def _lettered(text: str) -> str:
    """Lower case, NFKC, with letters, digits, marks and the signs that may mean something; the rest is space."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return "".join(c if c in "_.:,+#-" or unicodedata.category(c)[0] in "LNM" else " " for c in text)
