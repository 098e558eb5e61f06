"""The notes that ship can be read; their parts share no kind; neither their questions nor their lines repeat."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

import stillhouse
from stillhouse.text.notes import Note, read_notes

STUDY = Path(stillhouse.__file__).parent / "assets" / "study"
PARTS = ("taught", "development", "judged")
MOST_OF_ONE_OPENING = 0.02  # of all questions of a part
MOST_SHARED = 0.6  # of the words of the shorter of two lines of different notes
SHORT = 6  # words: lines of fewer are alike by chance


@pytest.fixture(scope="module")
def parts() -> dict[str, list[Note]]:
    return {part: read_notes(STUDY / part) for part in PARTS}


def words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.casefold())


def test_no_kind_and_no_note_crosses_parts(parts: dict[str, list[Note]]) -> None:
    for a, b in combinations(PARTS, 2):
        assert not {n.kind for n in parts[a]} & {n.kind for n in parts[b]}
        assert not {n.name for n in parts[a]} & {n.name for n in parts[b]}


@pytest.mark.parametrize("part", PARTS)
def test_questions_begin_in_many_ways(part: str, parts: dict[str, list[Note]]) -> None:
    asked = [q for note in parts[part] for line in note.lines for fact in line.facts for q in fact.questions]
    (opening, count), *_ = Counter(" ".join(words(q)[:3]) for q in asked).most_common(1)
    assert count <= MOST_OF_ONE_OPENING * len(asked), opening


@pytest.mark.parametrize("part", PARTS)
def test_no_two_questions_about_a_fact_begin_alike(part: str, parts: dict[str, list[Note]]) -> None:
    for note in parts[part]:
        for fact in (fact for line in note.lines for fact in line.facts):
            openings = [" ".join(words(q)[:3]) for q in fact.questions]
            assert len(set(openings)) == len(openings), (note.name, openings)


@pytest.mark.parametrize("part", PARTS)
def test_no_two_notes_say_the_same(part: str, parts: dict[str, list[Note]]) -> None:
    lines = [(note.name, set(words(line.text))) for note in parts[part] for line in note.lines]
    long = [(name, own) for name, own in lines if len(own) >= SHORT]
    for (name, a), (other, b) in combinations(long, 2):
        if name != other:
            assert len(a & b) <= MOST_SHARED * min(len(a), len(b)), (name, other, a & b)


@pytest.mark.parametrize("part", PARTS)
def test_every_line_has_questions_that_its_note_does_not_answer(part: str, parts: dict[str, list[Note]]) -> None:
    assert all(len(line.near) >= 2 for note in parts[part] for line in note.lines)
