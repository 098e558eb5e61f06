"""Whether two short answers are the same.

In: two answers as text. Out: whether they state the same fact. The language decides which words make no difference, and
which answers say "I don't know". This module compares words, and knows no model.
"""

from __future__ import annotations

import re
import unicodedata

from .language import DROPPED_WORDS, is_unknown

_SIGNS = re.compile(r"((?<!\S)-(?=\d)|(?<=\w)(?:[+#]+|-)(?!\S))|[-+#]")  # signs that belong to a word, and others
_NO_SIGN = re.compile(r"[^a-z0-9_.:,+#-]")  # the ASCII characters that `_lettered` turns into spaces


def normalise(answer: str) -> str:
    """One form for an answer: lower case, NFKC, words alone, without articles, possessives or locating words.

    The idea is SQuAD's answer normalisation (Rajpurkar et al. 2016). It also leaves out the words that change when a
    statement about "my dog" is answered with "your dog". It does not join different facts: signs that belong to a word
    (C++, C#, A-, -5), dots inside numbers (7:30, 10.0.0.1) and vowel signs of Indic scripts stay. An answer that
    consists of dropped words alone ("A") keeps them.
    """
    words = _words(answer)
    return " ".join([w for w in words if w not in DROPPED_WORDS] or words)


def same_answer(answer: str, expected: str) -> bool:
    """Exact match after `normalise`. An empty normalised answer matches nothing but the literal same text."""
    left, right = normalise(answer), normalise(expected)
    return left == right if left and right else answer.strip() == expected.strip()


def says(answer: str, expected: str) -> bool:
    """Whether `expected` stands in `answer` as whole words. Teachers that answer in full sentences need it."""
    needle, words = normalise(expected), _words(answer)
    kept = words if set(needle.split()) <= DROPPED_WORDS else [w for w in words if w not in DROPPED_WORDS]
    return bool(needle) and f" {needle} " in f" {' '.join(kept)} " and not is_unknown(answer)


def _words(text: str) -> list[str]:
    text = _NO_SIGN.sub(" ", text.lower()) if text.isascii() else _lettered(text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 12,500 is 12500
    text = re.sub(r"(?<=\d)[:.,](?=\d)", ".", text)  # 7:30 and 10.0.0.1 stay one word
    text = re.sub(r"(?<!\d)[:.,]|[:.,](?!\d)", " ", text)
    return _SIGNS.sub(lambda sign: sign[1] or " ", text).split()


def _lettered(text: str) -> str:
    """`text` in lower case and NFKC; only letters, digits, marks and signs that may mean something are no spaces."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return "".join(c if c in "_.:,+#-" or unicodedata.category(c)[0] in "LNM" else " " for c in text)
