"""A memory becomes statements, and statements become chunks that fit a teacher's context.

In: UTF-8 text. Out: `Statement` byte spans (sentences, bullets, turns of a conversation), then `Chunk`s of consecutive
statements cut at turn and sentence borders. A chunk repeats the statements before it only where its first one leans on
them ("He", "It", "That …").

It does not know any model: token counts come from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..records import Statement

_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+")
_SPEAKER = re.compile(
    r"\s*(?:\*\*)?(?:User|Assistant|Human|AI|Bot|System|Me|Customer|Agent)(?:\*\*)?:\s+", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?…])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|e\.g|i\.e|approx|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)|\b[A-Z])\.$"
)
_LONGEST_ABBREVIATION = 12  # characters, with what stands before it
_LEANS = re.compile(r"^(?:He|She|It|They|This|That|These|Those|His|Her|Its|Their|There|Then|So|And|But|Also)\b")
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|previous|earlier|above|memory|rule|everything)"
    r"|\bfrom now on\b.{0,40}\b(?:you|reply|answer|say|respond)"
    r"|\byou (?:must|should|will|shall) (?:always |only |now )*(?:answer|reply|say|respond|output|pretend|act)\b"
    r"|\b(?:answer|reply to|respond to) (?:every|all|any)\b"
    r"|\bwhatever (?:you are|the user|i) ask"
    r"|^(?:system|assistant)\s*[:,]\s*(?:ignore|disregard|forget|you|whatever|output|say)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Chunk:
    """Consecutive statements with the text the teacher reads for them."""

    text: str
    statements: tuple[Statement, ...]


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


def chunks(text: str, found: Sequence[Statement], count: Callable[[str], int], limit: int) -> list[Chunk]:
    """Groups of statements whose text is at most `limit` tokens (a longer single statement stands alone)."""
    data = text.encode()

    def tokens(start: int, end: int) -> int:
        return count(data[start:end].decode())

    groups: list[list[Statement]] = []
    size = 0
    for statement in found:
        added = tokens(groups[-1][-1].end, statement.end) if groups else 0
        if groups and size + added <= limit:
            groups[-1].append(statement)
            size += added
            continue
        group = [*_overlap(groups[-1] if groups else [], statement), statement]
        while len(group) > 1 and tokens(group[0].start, statement.end) > limit:
            group.pop(0)  # better without what it leans on than over the limit
        groups.append(group)
        size = tokens(group[0].start, statement.end)
    ready, seen = [], -1
    for group in groups:
        own = tuple(s for s in group if s.index > seen)
        seen = group[-1].index
        ready.append(Chunk(data[group[0].start : group[-1].end].decode(), own))
    return ready


def _overlap(before: list[Statement], statement: Statement) -> list[Statement]:
    """The statements before `statement` that it leans on: at most three, nearest last."""
    needed: list[Statement] = []
    current = statement
    for earlier in reversed(before[-3:]):
        if not _LEANS.match(current.text):
            break
        needed.insert(0, earlier)
        current = earlier
    return needed


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
