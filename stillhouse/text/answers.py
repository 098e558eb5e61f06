"""Whether an answer is right: the one grader, for capture, gates, benchmarks and whoever else asks.

In: an answer as a model wrote it, and what is expected of it. Out: a `Grade`: correct, wrong, denied (it says that it
does not know) or hedged (it says so, and has the value all the same), with the measures of other evaluations beside it.
The rules stand in `text/verdicts.py` and are told in `docs/gate.md`.

It compares words, and knows no model. Other words for the same it does not know, unless they are given as aliases.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from .expected import pattern
from .language import DROPPED_WORDS
from .overlap import best_f1, exact_match, locomo_words, shared, squad_words
from .replies import reply
from .tokens import tokens
from .verdicts import Verdict, has_value, is_right, judge

__all__ = ["Expected", "Grade", "Verdict", "foils", "grade", "mentions", "normalise"]


@dataclass(frozen=True)
class Expected:
    """What an answer is expected to say. Raises `ValueError` on an empty value."""

    value: str
    aliases: tuple[str, ...] = ()
    """Other texts that are as right."""
    foils: tuple[str, ...] = ()
    """Values of the same memory that make an answer wrong where they stand beside the value."""
    question: str = ""
    """Its words do not count: the answer has to add what is missing."""

    def __post_init__(self) -> None:
        if not self.value.strip():
            raise ValueError("the expected value is empty; give the text that a right answer has")


@dataclass(frozen=True)
class Grade:
    """A verdict, and measures from 0 to 1, the best over value and aliases."""

    verdict: Verdict
    exact_match: float
    """SQuAD's."""
    f1: float
    """SQuAD's, over words."""
    locomo_f1: float
    """LoCoMo's, over stems."""
    recall: float
    """The share of the value's words that the answer has."""

    @property
    def correct(self) -> bool:
        """Whether the verdict is "correct"."""
        return self.verdict == "correct"


def grade(answer: str, expected: Expected) -> Grade:
    """The verdict on an answer, and its measures. Any text is an answer; none raises."""
    return _grade(answer, expected.value, expected.aliases, expected.foils, expected.question)


@lru_cache(maxsize=16384)
def _grade(answer: str, value: str, aliases: tuple[str, ...], foils: tuple[str, ...], question: str) -> Grade:
    text, values = reply(answer), (value, *aliases)
    verdict = judge(text, pattern(value, aliases, foils, question))
    keys = tokens(text).keys
    wanted = [tokens(v).keys for v in values]
    return Grade(
        verdict,
        exact_match(text, values),
        best_f1(squad_words(text), [squad_words(v) for v in values]),
        best_f1(locomo_words(text), [locomo_words(v) for v in values]),
        max(shared(keys, w) / len(w) if w else float(verdict == "correct") for w in wanted),
    )


def foils(value: str, question: str, others: Iterable[str]) -> tuple[str, ...]:
    """Which of a memory's other values make an answer wrong: those that are no right answer themselves."""
    expected = pattern(Expected(value).value, (), (), question)
    return tuple(o for o in dict.fromkeys(others) if o.strip() and not is_right(reply(o), expected))


def mentions(text: str, value: str) -> bool:
    """Whether `value` stands in `text` as whole words, whatever is said about it."""
    return bool(value.strip()) and has_value(tokens(text), pattern(value, (), (), ""))


_SIGNS = re.compile(r"((?<!\S)-(?=\d)|(?<=\w)(?:[+#]+|-)(?!\S))|[-+#]")  # signs that belong to a word, and others
_NO_SIGN = re.compile(r"[^a-z0-9_.:,+#-]")  # the ASCII characters that `_lettered` turns into spaces


def normalise(answer: str) -> str:
    """One form for a question or a value, as a key: lower case, NFKC, words alone.

    The idea is SQuAD's answer normalisation (Rajpurkar et al. 2016). It leaves out articles, locating words, and the
    words that change when a statement about "my dog" is answered with "your dog". It does not join different facts:
    signs that belong to a word (C++, C#, A-, -5), dots inside numbers (7:30, 10.0.0.1) and vowel signs of Indic scripts
    stay. A text of dropped words alone ("A") keeps them.
    """
    words = _words(answer)
    return " ".join([w for w in words if w not in DROPPED_WORDS] or words)


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
