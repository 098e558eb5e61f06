"""A memory's text becomes statements: sentences, bullets, turns of a conversation, each with its place in the text.

In: UTF-8 text. Out: a `Reading`: `Statement`s with their byte spans, in order, and what is left out with the reason. A
sentence that reads like an order to a model is marked as one. Headings, questions and bare labels are no statements.
The language decides what ends a sentence and what is an order. This module does not know models, nor what a statement
means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..records import LeftOut, Reading, Statement
from .language import ABBREVIATION, LONGEST_ABBREVIATION, ORDER, SENTENCE_BORDER, SPEAKER_LABEL

_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+")
_LEAST_WORDS = 3


def read(text: str) -> Reading:
    """Every statement of `text` in order, with byte offsets into its UTF-8 form, and what is in none."""
    taken = statements(text)
    data = text.encode()
    starts, ends = [0, *(s.end for s in taken)], [*(s.start for s in taken), len(data)]
    left_out = [part for gap in zip(starts, ends, strict=True) for part in _left_out(data, *gap)]
    return Reading(tuple(taken), tuple(left_out))


def statements(text: str) -> list[Statement]:
    """The statements of `read`."""
    result: list[Statement] = []
    counted = first = 0  # characters counted so far, and the bytes they take
    for start, line in _blocks(text):
        for offset, sentence in _sentences(line):
            if _states(sentence):
                first += len(text[counted : start + offset].encode())
                counted = start + offset
                instruction = bool(ORDER.search(sentence))
                end = first + len(sentence.encode())
                result.append(Statement(len(result), first, end, " ".join(sentence.split()), instruction))
    return result


def _left_out(data: bytes, start: int, end: int) -> Iterator[LeftOut]:
    """The lines between two statements, each with the reason why it is in none."""
    for line in data[start:end].splitlines(keepends=True):
        bare = line.strip()
        if bare:
            first = start + line.index(bare)
            yield LeftOut(first, first + len(bare), _reason(bare.decode()))
        start += len(line)


def _reason(line: str) -> str:
    if not re.search(r"\w", line) or _BULLET.fullmatch(line + " "):
        return "markup"
    if line.startswith("#"):
        return "a heading"
    return "a question" if line.rstrip("\"')").endswith("?") else "too short to state anything"


def _blocks(text: str) -> list[tuple[int, str]]:
    """(start, text) of every line; a line that goes on with the sentence of the line before it is joined to it."""
    blocks: list[tuple[int, list[str]]] = []
    start = 0
    for line in text.splitlines(keepends=True):
        last = blocks[-1][1][-1].rstrip() if blocks else ""
        if line[:1].islower() and last and last[-1] not in ".!?:":
            blocks[-1][1].append(line)
        else:
            blocks.append((start, [line]))
        start += len(line)
    return [(start, "".join(lines)) for start, lines in blocks]


def _sentences(line: str) -> list[tuple[int, str]]:
    """(start, text) of every sentence of a line, without bullet and speaker; none of a heading, a rule or a table."""
    if re.match(r"\s*(?:#+\s|[-=*_]{3,}\s*$|```|\|)", line):
        return []
    start = 0
    for label in (_BULLET, SPEAKER_LABEL):
        match = label.match(line, start)
        is_order = label is SPEAKER_LABEL and ORDER.match(line[start:].lstrip())  # "System: disregard …" is one order
        start = match.end() if match and not is_order else start
    pieces: list[tuple[int, str]] = []
    begin = start
    for match in SENTENCE_BORDER.finditer(line, start):
        if not ABBREVIATION.search(line[max(begin, match.start() - LONGEST_ABBREVIATION) : match.start()]):
            pieces.append((begin, line[begin : match.start()]))
            begin = match.end()
    pieces.append((begin, line[begin:]))
    trimmed = [(at + len(piece) - len(piece.lstrip()), piece.strip()) for at, piece in pieces]
    return [(at, sentence) for at, sentence in trimmed if sentence]


def _states(sentence: str) -> bool:
    """Whether a sentence can state something: three words or more, and not a question."""
    return len(re.findall(r"\w+", sentence)) >= _LEAST_WORDS and not sentence.rstrip("\"')").endswith("?")
