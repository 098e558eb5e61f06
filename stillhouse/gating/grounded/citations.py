"""Citations in an answer, and whether they hold.

In: an answer with markers such as `[2]`, `[1, 3]` or `[2-4]`, and the passages those numbers stand for. Out: one
`Citation` per number, with the words it is to prove: the quotation before the marker where there is one, else the words
since the last sentence or marker. A citation is valid when its passage exists and its words stand in it, or share more
than 0.6 of their set of words (Jaccard) with the passage or one of its sentences.

It does not know whether a valid citation answers the question, nor negation: "not Rex" shares its words with "Rex".
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
    """`span` is said to stand in `passage` (an id, empty for a number that was never shown); `valid`: it does."""

    passage: str
    span: str
    valid: bool


def citations(answer: str, shown: Sequence[str], texts: Mapping[str, str]) -> tuple[Citation, ...]:
    """The citations of an answer to a prompt whose passages, in their order from 1, had the ids `shown`.

    The same passage for the same words counts once. `texts`: the corpus, by id.
    """
    found: dict[tuple[int, str], Citation] = {}
    for number, span in _numbered(answer):
        passage = shown[number - 1] if 1 <= number <= len(shown) else ""
        found.setdefault((number, normalise(span)), Citation(passage, span, valid(span, texts.get(passage))))
    return tuple(found.values())


def valid(span: str, text: str | None) -> bool:
    """Whether a span is a passage's: whole words of it, or nearly. No passage, no words: not valid."""
    words = normalise(span)
    if text is None or not words:
        return False
    if f" {words} " in f" {normalise(text)} ":
        return True
    return any(jaccard(span, part) > NEAR for part in (text, *sentences(text)))


def jaccard(left: str, right: str) -> float:
    """|common words| / |all words| of two texts, after `chat.normalise`; 0 where neither has any."""
    a, b = set(normalise(left).split()), set(normalise(right).split())
    return len(a & b) / len(a | b) if a or b else 0.0


def sentences(text: str) -> list[str]:
    """The sentences of a passage, at full stops followed by space and at line breaks."""
    return [part for part in _SENTENCE.split(text) if part.strip()]


def without_markers(answer: str) -> str:
    """The answer as it reads without its citations."""
    return " ".join(_MARKER.sub(" ", answer).split()).replace(" .", ".")


def _numbered(answer: str) -> Iterator[tuple[int, str]]:
    """Every cited number with the words it is to prove; neighbouring markers prove the same words."""
    start, span = 0, ""
    for marker in _MARKER.finditer(answer):
        since = answer[start : marker.start()].lstrip(" .,;:!?")
        span = _claimed(since) or span
        start = marker.end()
        for number in _numbers(marker[1]):
            yield number, span


def _claimed(text: str) -> str:
    """The last quotation of a text if it ends with one, else its last sentence."""
    if quoted := _QUOTED.search(text):
        return quoted[1].strip()
    parts = sentences(text)
    return parts[-1].strip() if parts else ""


def _numbers(inside: str) -> Iterator[int]:
    """2, 3, 4 and 7 of "2-4, 7"."""
    for part in re.split(r"[,;]", inside):
        ends = [int(end) for end in re.split(r"[-–]", part)]
        yield from range(ends[0], min(ends[-1], ends[0] + WIDEST - 1) + 1)
