"""Measures that other evaluations publish: exact match and F1 of SQuAD, F1 of LoCoMo.

In: an answer and the expected ones. Out: figures from 0 to 1, the best over the expected ones. They are here to be
compared with others' figures, and decide nothing: a right answer in a sentence has an F1 of a half.

SQuAD: Rajpurkar et al. 2016, its official script: lower case, no ASCII punctuation, no a, an, the; a bag of words.
LoCoMo: Maharana et al. 2024, its `evaluation.py`: also without "and", on Porter stems. Its splitting of multi-hop
answers at commas is not done here.
"""

from __future__ import annotations

import re
import string
import threading
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import Stemmer

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_ARTICLES_AND = re.compile(r"\b(?:a|an|the|and)\b")
_LOCAL = threading.local()  # a stemmer serves one thread


@lru_cache(maxsize=16384)
def squad_words(text: str) -> tuple[str, ...]:
    """SQuAD's normalised answer, as words."""
    return tuple(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


@lru_cache(maxsize=16384)
def locomo_words(text: str) -> tuple[str, ...]:
    """LoCoMo's normalised answer, as stems."""
    words = _ARTICLES_AND.sub(" ", text.lower().translate(_PUNCTUATION)).split()
    return tuple([_stem(word) for word in words])


def exact_match(answer: str, values: Sequence[str]) -> float:
    """1 where SQuAD's normalised answer is one of the values, else 0."""
    words = squad_words(answer)
    return float(any(words == squad_words(value) for value in values))


def best_f1(words: Sequence[str], golds: Sequence[Sequence[str]]) -> float:
    """The best F1 of two bags of words. Two empty ones are the same, as in SQuAD 2.0."""
    return max(_f1(words, gold) for gold in golds)


def _f1(words: Sequence[str], gold: Sequence[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = shared(words, gold)
    return 2 * common / (len(words) + len(gold))


def shared(words: Sequence[str], gold: Sequence[str]) -> int:
    """How many words two bags share."""
    if len(gold) == 1:
        return int(gold[0] in words)
    bag = Counter(gold)
    common = 0
    for word in words:
        if bag.get(word, 0) > 0:
            bag[word] -= 1
            common += 1
    return common


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    if not hasattr(_LOCAL, "stemmer"):
        _LOCAL.stemmer = Stemmer.Stemmer("porter")
    stem: str = _LOCAL.stemmer.stemWord(word)
    return stem
