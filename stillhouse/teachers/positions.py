"""Which tokens of an answer get signals, as far as the answer's text decides it.

In: `Positions` and the bytes of an answer's tokens. Out: a mark per token. The choice by the teacher's entropy is made
from its logits (`teachers/scoring.py`).

The words of a sentence tell whether it refuses (`text/language.py`). A refusal begins and ends at a border between
sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..text.language import declines, is_unknown
from .settings import Positions

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*\s*|[.!?\n]\s*")


def refuses(text: str) -> bool:
    """Whether a sentence refuses, or says that it does not know."""
    return is_unknown(text) or declines(text)


def marked(positions: Positions, tokens: Sequence[bytes]) -> NDArray[np.bool_]:
    """For each token of an answer, whether its text chooses it. `tokens`: the bytes of each, the end token included."""
    chosen = np.full(len(tokens), positions.all)
    if positions.all:
        return chosen
    text = b"".join(tokens).decode("utf-8", "surrogateescape")
    ends = np.cumsum([len(t) for t in tokens])
    starts = ends - [len(t) for t in tokens]
    for pattern in positions.spans:
        for first, last in _spans(pattern, text):
            chosen |= (ends > first) & (starts < last)
    if positions.refusal:
        for border in _borders(text):
            at = int(np.searchsorted(ends, border, side="right"))
            chosen[max(0, at - positions.refusal) : at + positions.refusal] = True
    return chosen


def _spans(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    """Byte ranges of the matches."""
    for match in re.finditer(pattern, text):
        group = 1 if match.re.groups and match.start(1) >= 0 else 0
        yield _bytes(text[: match.start(group)]), _bytes(text[: match.end(group)])


def _borders(text: str) -> Iterator[int]:
    """Bytes where the answer begins, and where it begins or stops to refuse."""
    yield 0
    before: bool | None = None
    for sentence in _SENTENCE.finditer(text):
        now = refuses(sentence[0])
        if before is not None and now != before:
            yield _bytes(text[: sentence.start()])
        before = now


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
