"""What a writer is asked for names the statement, and its reply is read whatever list it makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.text import writing

STATEMENT = "Kitchen > Boiler: red valve, left of the sink"
WORDS = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1).filter(lambda w: not w.startswith("|"))


@pytest.mark.parametrize(
    "messages",
    [
        writing.values_request(STATEMENT),
        writing.questions_request(STATEMENT, "red valve"),
        writing.near_request(STATEMENT),
    ],
)
def test_a_request_shows_the_statement(messages: list[dict[str, str]]) -> None:
    (message,) = messages
    assert message["role"] == "user" and STATEMENT in message["content"]


def test_a_request_for_questions_names_the_value() -> None:
    assert writing.questions_request(STATEMENT, "red valve")[0]["content"].endswith("red valve")


@pytest.mark.parametrize(
    ("reply", "values"),
    [
        ("3 kg | the 19th", ["3 kg", "the 19th"]),
        ("3 kg |the 19th|3 kg", ["3 kg", "the 19th"]),
        ("- 3 kg\n- the 19th", ["3 kg", "the 19th"]),
        ("1. 3 kg\n2) the 19th", ["3 kg", "the 19th"]),
        (" | ", []),
        ("", []),
    ],
)
def test_values_are_read(reply: str, values: list[str]) -> None:
    assert writing.read_values(reply) == values


@pytest.mark.parametrize(
    ("reply", "questions"),
    [
        ("Who has the key?\nwhere is the key\n", ["Who has the key?", "where is the key"]),
        ("1. Who has it?\n\n2. Who has it?\n* And when?", ["Who has it?", "And when?"]),
        ("3 keys are where?", ["3 keys are where?"]),
    ],
)
def test_questions_are_read(reply: str, questions: list[str]) -> None:
    assert writing.read_questions(reply) == questions


@given(st.lists(WORDS.filter(lambda w: "|" not in w and "\n" not in w), unique=True))
def test_what_a_writer_is_taught_is_read_back(values: list[str]) -> None:
    plain = [value for value in values if not value[:1].isdigit() and value[:1] not in "-*•("]
    assert writing.read_values(writing.values_reply(plain)) == plain
    assert writing.read_questions(writing.questions_reply(plain)) == plain
