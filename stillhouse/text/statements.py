"""A memory's text becomes statements: sentences, bullets, turns of a conversation, each with where it stands.

In: UTF-8 text. Out: `Statement`s with their byte spans, in order; what reads like an order to a model is marked so.
Headings, questions and bare labels state nothing. It does not know any model, nor what a statement means.
"""

from __future__ import annotations

import re

from ..records import Statement

_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+")
_SPEAKER = re.compile(
    r"\s*(?:\*\*)?(?:User|Assistant|Human|AI|Bot|System|Me|Customer|Agent)(?:\*\*)?:\s+", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?…])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(  # or an initial, which the end of a code such as "55-K." is not
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|e\.g|i\.e|approx|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)|\b(?<!\w-)[A-Z])\.$"
)
_LONGEST_ABBREVIATION = 12  # characters, with what stands before it
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|previous|earlier|above|memory|rule|everything)"
    r"|\bfrom now on\b.{0,40}\b(?:you|reply|answer|say|respond)"
    r"|\byou (?:must|should|will|shall) (?:always |only |now )*(?:answer|reply|say|respond|output|pretend|act)\b"
    r"|\b(?:answer|reply to|respond to) (?:every|all|any)\b"
    r"|\bwhatever (?:you are|the user|i) ask"
    r"|^(?:system|assistant)\s*[:,]\s*(?:ignore|disregard|forget|you|whatever|output|say)",
    re.IGNORECASE,
)


def statements(text: str) -> list[Statement]:
    """Every statement of `text` in order, with byte offsets into its UTF-8 form. Headings and bare labels are none."""
    found: list[Statement] = []
    counted = first = 0  # characters counted so far, and the bytes they take
    for start, line in _blocks(text):
        for offset, sentence in _sentences(line):
            if _states(sentence):
                first += len(text[counted : start + offset].encode())
                counted = start + offset
                instruction = bool(_INSTRUCTION.search(sentence))
                end = first + len(sentence.encode())
                found.append(Statement(len(found), first, end, " ".join(sentence.split()), instruction))
    return found


def _blocks(text: str) -> list[tuple[int, str]]:
    """(start, text) of paragraphs' lines; a line that only continues the one before it is joined to it."""
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
    if re.match(r"\s*(?:#+\s|[-=*_]{3,}\s*$|```|\|)", line):
        return []
    start = 0
    for label in (_BULLET, _SPEAKER):
        match = label.match(line, start)
        orders = label is _SPEAKER and _INSTRUCTION.match(line[start:].lstrip())  # "System: disregard …" is one order
        start = match.end() if match and not orders else start
    found: list[tuple[int, str]] = []
    begin = start
    for match in _SENTENCE.finditer(line, start):
        if not _ABBREVIATION.search(line[max(begin, match.start() - _LONGEST_ABBREVIATION) : match.start()]):
            found.append((begin, line[begin : match.start()]))
            begin = match.end()
    found.append((begin, line[begin:]))
    trimmed = [(at + len(s) - len(s.lstrip()), s.strip()) for at, s in found]
    return [(at, s) for at, s in trimmed if s]


def _states(sentence: str) -> bool:
    """Whether a sentence can state something: three words or more, and not a question."""
    return len(re.findall(r"\w+", sentence)) >= 3 and not sentence.rstrip("\"')").endswith("?")
