"""Citations in an answer, and whether they hold.

In: an answer with markers such as `[2]`, `[1, 3]` or `[2-4]`, and the passages that the numbers stand for. Out: one
`Citation` per number, with its span: the words that the passage has to support. The span is the quotation before the
marker where there is one, else the words since the last sentence or marker. A citation is valid when its passage exists
and has the span's words in a row. It is also valid when the Jaccard similarity of the span's words and those of the
passage, or of one of its sentences, is above 0.6.

It does not know whether a valid citation answers the question. It does not know negation: "not Rex" shares words with
"Rex".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...text.answers import normalise

NEAR = 0.6  # token Jaccard beyond which a span counts as the passage's
WIDEST = 64  # numbers in one marker such as [1-64]

_MARKER = re.compile(r"\[\s*(\d{1,4}(?:\s*(?:,|;|-|–)\s*\d{1,4})*)\s*\]")
_QUOTED = re.compile(r"[\"“”]([^\"“”]+)[\"“”][\s.,;:!?)]*$")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+")


@dataclass(frozen=True)
class Citation:
    """One cited number of an answer."""

    passage: str  # the passage's id; empty for a number that was never shown
    span: str  # the answer's words that the passage has to support
    valid: bool  # the passage supports them


def citations(answer: str, shown: Sequence[str], texts: Mapping[str, str]) -> tuple[Citation, ...]:
    """The citations of an answer. `shown`: ids of the passages in the prompt, in their order from 1; `texts`: the text
    of every passage, by id. The same number for the same words counts once.
    """
    cited: dict[tuple[int, str], Citation] = {}
    for number, span in _numbered(answer):
        passage = shown[number - 1] if 1 <= number <= len(shown) else ""
        cited.setdefault((number, normalise(span)), Citation(passage, span, valid(span, texts.get(passage))))
    return tuple(cited.values())


def valid(span: str, text: str | None) -> bool:
    """Whether a passage's text supports a span. Without a passage, or without words, it does not."""
    words = normalise(span)
    if text is None or not words:
        return False
    if f" {words} " in f" {normalise(text)} ":
        return True
    return any(jaccard(span, part) > NEAR for part in (text, *sentences(text)))


def jaccard(left: str, right: str) -> float:
    """|common words| / |all words| of two texts, after `normalise`; 0 where neither has words."""
    a, b = set(normalise(left).split()), set(normalise(right).split())
    return len(a & b) / len(a | b) if a or b else 0.0


def sentences(text: str) -> list[str]:
    """The sentences of a passage. They end at line breaks, and at `.`, `!`, `?` or `…` before a space."""
    return [part for part in _SENTENCE.split(text) if part.strip()]


def without_markers(answer: str) -> str:
    """The answer's text without its citations."""
    return " ".join(_MARKER.sub(" ", answer).split()).replace(" .", ".")


def _numbered(answer: str) -> Iterator[tuple[int, str]]:
    """Every cited number with its span. Markers without words between them have the same span."""
    start, span = 0, ""
    for marker in _MARKER.finditer(answer):
        before = answer[start : marker.start()].lstrip(" .,;:!?")
        span = _last_claim(before) or span
        start = marker.end()
        for number in _numbers(marker[1]):
            yield number, span


def _last_claim(text: str) -> str:
    """The quotation that a text ends with, else its last sentence."""
    if quoted := _QUOTED.search(text):
        return quoted[1].strip()
    parts = sentences(text)
    return parts[-1].strip() if parts else ""


def _numbers(inside: str) -> Iterator[int]:
    """The numbers in a marker: 2, 3, 4 and 7 for "2-4, 7"."""
    for part in re.split(r"[,;]", inside):
        ends = [int(end) for end in re.split(r"[-–]", part)]
        yield from range(ends[0], min(ends[-1], ends[0] + WIDEST - 1) + 1)
