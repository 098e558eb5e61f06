"""What counts as the same answer, and what counts as not knowing: tables of what people and models really say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.text.answers import Expected, grade, mentions, normalise
from stillhouse.text.language import is_unknown
from stillhouse.text.prompts import MEMORY_SYSTEM, UNKNOWN_ANSWER, with_memory, without_memory, writing_request

SAME = [
    ("Rex", "rex."),
    ("  The  Rex ", "Rex"),
    ("My dog's name", "your dog’s name"),
    ("7:30", "7:30."),
    ("12,500", "12500"),
    ("Zoe\u0308", "Zoë"),
    ("ＡＢＣ", "abc"),
    ("in Paris", "Paris"),
    ("A", "a."),
    ("the", "The!"),
    ("C++", "c++"),
    ("हिन्दी", "हिन्दी।"),
]
DIFFERENT = [
    ("Rex", "Max"),
    ("Rex", "Rexford"),
    ("7:30", "730"),
    ("10.0.0.1", "10.0.0.11"),
    ("C++", "C"),
    ("C#", "C"),
    ("A+", "A-"),
    ("AB+", "AB"),
    ("-5", "5"),
    ("की", "का"),
    ("Zoe", "Zoë"),
    ("...", "?"),
    ("A", "The"),
]
UNKNOWN = [
    "I don't know.",
    "I do not know",
    "i dont know",
    "I don’t know.",
    "I really don't know that.",
    "Don't know.",
    "It is not mentioned in the memory",
    "It isn't mentioned.",
    "That was not specified.",
    "That has not been mentioned.",
    "Not mentioned in the memory.",
    "Not specified.",
    "I'm not sure",
    "I am unsure.",
    "Not sure.",
    "I can't find that",
    "I cannot find that in the memory.",
    "I couldn't tell you.",
    "Cannot be determined.",
    "It can't be determined from the memory.",
    "The memory does not say",
    "The memory doesn't say.",
    "The text you gave me does not mention a dog.",
    "It does not say.",
    "The memory does not contain any information about a boat.",
    "There is no information about that.",
    "There's no mention of a boat in the notes.",
    "No information is given.",
    "No idea.",
    "I have no idea.",
    "I have no record of that.",
    "I don't have that information.",
    "I'm sorry, but I don't have access to personal information about you.",
    "You haven't told me.",
    "You never mentioned it.",
    "I have not been told.",
    "I am unable to answer that.",
    "I'm not able to say.",
    "Unknown.",
    "It is unknown.",
    "The name is unknown.",
    "Sorry, I don't remember.",
]
KNOWN = [
    "Noah",
    "No.",
    "Nobody",
    "the unknown soldier band",
    "The Tomb of the Unknown Soldier",
    "an unknown painter",
    "at the No Idea cafe",
    "Rex",
    "Juno information desk",
    "It is not in the kitchen but in the hall.",
    "She does not have a dog.",
    "He did not say goodbye",
    "It does not contain nuts",
    "Can't Stop",
    "Cannock",
    "You can't miss it",
    "in Cannes",
    "a note of sureness",
    "Knowles",
    "the unable mare",
    "She was not given a name",
    "known as Kit",
    "There is no record store in town",
    "never on a Sunday",
    "Not before 7:30",
    "",
    "   ",
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_the_same_answer(left: str, right: str) -> None:
    assert grade(left, Expected(right)).correct
    assert grade(right, Expected(left)).correct


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different_answers(left: str, right: str) -> None:
    assert not grade(left, Expected(right)).correct
    assert not grade(right, Expected(left)).correct


@pytest.mark.parametrize("answer", UNKNOWN)
def test_says_that_it_does_not_know(answer: str) -> None:
    assert is_unknown(answer)
    assert is_unknown(answer.upper())
    assert is_unknown(f"  {answer}\n")


@pytest.mark.parametrize("answer", KNOWN)
def test_says_something(answer: str) -> None:
    assert not is_unknown(answer)
    assert not is_unknown(answer.upper())


@pytest.mark.parametrize(
    ("text", "value", "stands"),
    [
        ("Your dog is called Rex.", "Rex", True),
        ("Rex", "Rex", True),
        ("Your dog is called Rexford.", "Rex", False),
        ("It opens at 7:30 in the morning.", "at 7:30", True),
        ("It opens at 17:30.", "7:30", False),
        ("I don't know whether it is Rex.", "Rex", True),
        ("It is not Rex.", "Rex", True),
        ("Rex", "", False),
        ("", "Rex", False),
        ("anything", "...", False),
        ("Holm or Berg", "Dr. Holm", True),
    ],
)
def test_a_value_stands_in_a_text_as_whole_words(text: str, value: str, stands: bool) -> None:
    assert mentions(text, value) is stands


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip()


@given(st.text(), st.text())
def test_no_text_raises(text: str, value: str) -> None:
    assert mentions(text, value) in {True, False}
    assert is_unknown(text) in {True, False}


def test_the_answer_the_teacher_is_asked_for_is_unknown() -> None:
    assert is_unknown(UNKNOWN_ANSWER)
    assert UNKNOWN_ANSWER in MEMORY_SYSTEM


@given(st.text(), st.text())
def test_the_memory_is_in_the_teachers_messages_only(memory: str, question: str) -> None:
    system, user = with_memory(memory, question)
    assert system["role"] == "system"
    assert system["content"].endswith(memory)
    assert without_memory(question) == [user] == [{"role": "user", "content": question}]


def test_braces_in_a_memory_or_statement_are_data() -> None:
    assert "{memory} {0} {n}" in with_memory("{memory} {0} {n}", "?")[0]["content"]
    assert writing_request("{statement} {n}", 3).endswith("Statement: {statement} {n}")
    assert "Write 3 differently worded" in writing_request("x", 3)


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_is_normalised_as_any_other(text: str) -> None:
    """ASCII text takes a shorter way, on which one letter beyond it makes the answer go the long one."""
    assert normalise(f"zoe {text}") == normalise(f"zoë {text}").replace("zoë", "zoe", 1)
