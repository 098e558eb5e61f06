"""The passages of a memory that share words with a question: BM25 (Robertson and Zaragoza 2009), through `bm25s`.

In: a user's passages, a question. Out: the passages nearest to it, best first. Words are folded (NFKC, case)
and stemmed for English, without its stop words; scripts without spaces are taken letter by letter. k1 = 0.9 and
b = 0.4, Anserini's defaults, which suit short passages. It does not know synonyms, or that two passages contradict each
other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN_PLUS

K1, B = 0.9, 0.4

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_STOPPED = frozenset(STOPWORDS_EN_PLUS)


@dataclass(frozen=True)
class ScoredPassage:
    """One passage: its place among those that were indexed, its text, its score for a query."""

    index: int
    text: str
    score: float


class LexicalIndex:
    """The passages of one user. Building it takes about 20 microseconds a passage; it is never changed."""

    def __init__(self, passages: Sequence[str]) -> None:
        self.passages = tuple(passages)
        words = [terms(text) for text in self.passages]
        self._bm25: bm25s.BM25 | None = None
        if any(words):
            self._bm25 = bm25s.BM25(k1=K1, b=B)
            self._bm25.index(words, show_progress=False)

    def scored(self, query: str, k: int = 10) -> list[ScoredPassage]:
        """At most `k` passages that share a word with `query`, best first; of equal scores the later first."""
        known = [word for word in terms(query) if self._bm25 is not None and word in self._bm25.vocab_dict]
        if self._bm25 is None or not known or k < 1:
            return []
        scores_P = self._bm25.get_scores(known)
        order = np.lexsort((-np.arange(len(scores_P)), -scores_P))[:k]
        return [ScoredPassage(int(i), self.passages[i], float(scores_P[i])) for i in order if scores_P[i] > 0]

    def top(self, query: str, k: int = 10) -> list[str]:
        """The texts of `scored`."""
        return [passage.text for passage in self.scored(query, k)]


def terms(text: str) -> list[str]:
    """The words of a text as they are compared: stemmed, without stop words unless it has no others ("Who is he?")."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    kept = [word for word in words if word not in _STOPPED] or words
    return list(Stemmer.Stemmer("english").stemWords(kept))


def within(passages: Sequence[ScoredPassage], budget: int, count: Callable[[str], int]) -> list[ScoredPassage]:
    """The best passages that take at most `budget` tokens together, in the order they were stated in.

    A passage that is too long is left out; a shorter one after it may still fit. `count` gives the tokens of a text.
    """
    chosen: list[ScoredPassage] = []
    for passage in passages:
        if (cost := count(passage.text) + 1) <= budget:  # 1: the line break
            budget -= cost
            chosen.append(passage)
    return sorted(chosen, key=lambda p: p.index)
