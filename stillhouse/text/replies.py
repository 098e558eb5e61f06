"""What of a model's output is its answer: one turn, one paragraph, its sentences up to a question of its own.

In: the text that a model wrote. Out: the reply, and its sentences. A line that ends with a colon belongs to what comes
behind it, blank lines or not. A line that goes on in lower case belongs to the one before.

It knows abbreviations by the language's list, and by what the caller names as one whole (`whole`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from .language import (
    ABBREVIATIONS,
    ANSWER_LABEL,
    ENDING_ABBREVIATIONS,
    NUMBERING,
    QUESTION_LABEL,
    SPEAKER_LABEL,
)
from .numbers import MONTH_WORDS

_END_OF_TURN = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:end|start)_of_turn>|\[/?INST\]|<eos>", re.IGNORECASE)
_BLANK = re.compile(r"(?<!:)[ \t]*\n[ \t\r]*\n")
_AFTER_COLON = re.compile(r":[ \t]*\n\s*")
_NEXT_TURN = re.compile(rf"\n(?:{SPEAKER_LABEL.pattern}|{QUESTION_LABEL})", re.IGNORECASE)
_LABEL = re.compile(rf"\s*(?:[*_#>\s]*)(?:{ANSWER_LABEL})\s*", re.IGNORECASE)
_BORDER = re.compile(r"[.!?…؟]+[\"'”’)\]*_]*(?=\s)|[。！？।॥]+[」』”\"')）]*|\n")
_ENDERS = re.compile(r"[.!?…؟][\"'”’)\]*_]*\s|[。！？।॥]")
_BEFORE = re.compile(r"[\w.'’-]*$")
_LETTERS = re.compile(r"[^\W\d_i]|[^\W\d_](?:\.[^\W\d_])+")  # initials: "B.", "z.B."; "I." ends a sentence
_ORDINAL = re.compile(r"\d{1,2}")  # "7. Mai"
LONGEST_WORD = 24  # characters that are looked at before a full stop


@lru_cache(maxsize=16384)
def reply(output: str) -> str:
    """The first turn of `output`, up to its first blank line."""
    text = output.strip()
    if "<" in text or "[" in text:
        begun = _END_OF_TURN.match(text)
        text = _END_OF_TURN.split(text[begun.end() :] if begun else text, maxsplit=1)[0].strip()
    if "\n" in text:
        text = _NEXT_TURN.split(_AFTER_COLON.sub(": ", text), maxsplit=1)[0]
        text = _BLANK.split(text, maxsplit=1)[0].strip()
    if ":" in text and (label := _LABEL.match(text)) is not None:
        text = text[label.end() :]
    return text


def sentences(text: str, whole: Sequence[str] = ()) -> list[str]:
    """The sentences of a reply. No border lies inside one of `whole`."""
    cut: list[str] = []
    begin = 0
    if not (_ENDERS.search(text) or "\n" in text):
        return [" ".join(text.split())] if text.strip() else []
    closed = [m.span() for w in whole for m in re.finditer(re.escape(w), text, re.IGNORECASE)]
    for match in _BORDER.finditer(text):
        if any(start < match.end() < end for start, end in closed) or not _ends(text, match):
            continue
        cut.append(text[begin : match.end()])
        begin = match.end()
    cut.append(text[begin:])
    return [sentence for sentence in (" ".join(f.split()) for f in cut) if sentence]


def _ends(text: str, border: re.Match[str]) -> bool:
    """Whether a sentence ends here, and not only an abbreviation, an ordinal, three dots or a wrapped line."""
    sign, behind = border[0], text[border.end() :].lstrip()
    if sign == "\n":
        return not (behind[:1].islower() or not behind)
    if sign.startswith(("..", "…")):
        return not (behind[:1].islower() or behind[:1] in ",;")
    if not sign.startswith("."):
        return True
    before = _BEFORE.search(text, max(0, border.start() - LONGEST_WORD), border.start())
    word = before[0].lower() if before else ""
    if word in ENDING_ABBREVIATIONS:
        return behind[:1].isupper()
    if word in ABBREVIATIONS or _LETTERS.fullmatch(word):
        return False
    if word in NUMBERING:
        return not behind[:1].isdigit()
    return not (_ORDINAL.fullmatch(word) and behind and behind.split()[0].strip(".,;").casefold() in MONTH_WORDS)
