"""An answer is a whole value of its statement, is made one, or is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.capture.memory.grounding import grounded, is_cut_of
from stillhouse.capture.memory.questions import candidates, cloze
from stillhouse.records import Statement


def statement(text: str) -> Statement:
    return Statement(0, 0, len(text.encode()), text)


@pytest.mark.parametrize(
    ("text", "answer", "whole"),
    [
        ("My dog is called Zorvik.", "Zorvik.", "Zorvik."),
        ("My dog is called Zorvik.", "your dog", "your dog"),
        ("My dog is called Zorvik.", "you", "you"),
        ("I live in Paris.", "in Paris", "in Paris"),
        ("David has a dog.", "David's dog", "David's dog"),
        ("Emma's desk number is B7.", "the desk number of Emma", "the desk number of Emma"),
        ("My dentist is Dr. Holm.", "Dr", "Dr. Holm"),
        ("My dentist is Dr. Holm.", "The Dr.", "Dr. Holm"),
        ("My email is kim.vale@example.org.", "kim", "kim.vale@example.org"),
        ("I live at 12 St. Mary Road.", "at 12 St", "12 St. Mary Road"),
        ("Sister's birthday: 4 May", "4 May round", None),
        ("The bakery opens at 7:30.", "850 euros", None),
        ("My landlady is Mrs. A. B. Klein.", "Dr. Klein", None),
        ("My dog is called Zorvik.", "", None),
        ("My dog is called Zorvik.", "...", None),
    ],
)
def test_an_answer_is_a_whole_value(text: str, answer: str, whole: str | None) -> None:
    assert grounded(answer, text) == whole


def test_a_cut_answer_is_known_for_one() -> None:
    text = "My dentist is Dr. Holm."
    assert is_cut_of("Dr", "Dr. Holm", text)
    assert not is_cut_of("Dr. Holm", "Dr. Holm", text)
    assert not is_cut_of("Rex", "Dr. Holm", text)


def test_cut_lines_of_a_teacher_are_made_whole() -> None:
    reply = """Who is my dentist? | Dr
What is my dentist's name? | Dr.
Who treats my teeth? | Dr. Holm
Who is Dr. Holm? | my dentist"""
    questions = candidates(reply, statement("My dentist is Dr. Holm."))
    assert [(q.answer, q.direction) for q in questions] == [
        ("Dr. Holm", "forward"),
        ("Dr. Holm", "forward"),
        ("Dr. Holm", "forward"),
        ("my dentist", "reverse"),
    ]


def test_a_reverse_answer_that_the_statement_does_not_have_is_dropped() -> None:
    reply = """When is my sister's birthday? | 4 May
What is on 4 May? | sister's birthday round
What is 4 May? | Sister's birthday"""
    questions = candidates(reply, statement("Sister's birthday: 4 May"))
    assert [q.answer for q in questions] == ["4 May", "Sister's birthday"]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("My dentist is Dr. Holm.", ["Dr. Holm"]),
        ("I live at 12 St. Mary Road.", ["12 St. Mary Road"]),
        ("12 St. Mary Road.", []),
    ],
)
def test_a_cloze_cuts_no_value(text: str, answers: list[str]) -> None:
    assert [q.answer for q in cloze(statement(text))] == answers


@given(st.text(max_size=40), st.text(max_size=60))
def test_any_answer_is_judged(answer: str, text: str) -> None:
    whole = grounded(answer, text)
    assert whole is None or whole == answer or whole in text
