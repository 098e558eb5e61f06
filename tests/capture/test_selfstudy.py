"""What is asked about a statement: the teacher's lines, checked; and what the memory does not answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse import chat
from stillhouse.capture._selfstudy import candidates, cloze, decoys, near_misses, parse
from stillhouse.records import Question, Statement

DOG = Statement(3, 0, 20, "My dog is called Zorvik.")
REPLY = """What is my dog called? | Zorvik
1. What name does my dog have? | Zorvik.
- Q: Do you know my dog's name? | A: Zorvik
Who is Zorvik? | my dog
Is my dog called Zorvik? | Zorvik
What is my cat called? | Tom
Dog? | Zorvik
no bar here
What is my dog called? | Zorvik
"""


def test_a_reply_becomes_forward_and_reverse_questions() -> None:
    found = candidates(REPLY, DOG)
    assert [(q.text, q.answer, q.direction) for q in found] == [
        ("What is my dog called?", "Zorvik", "forward"),
        ("What name does my dog have?", "Zorvik.", "forward"),
        ("Do you know my dog's name?", "Zorvik", "forward"),
        ("Who is Zorvik?", "my dog", "reverse"),
    ]
    assert {q.statement for q in found} == {3}
    assert {q.use for q in found} == {"train"}


@given(
    st.text()
    | st.lists(st.sampled_from(["a", "|", "\n", " ", "1.", "Zorvik", "?", "Q:", "dog"]), max_size=30).map("".join)
)
def test_any_reply_is_read_without_complaint(reply: str) -> None:
    assert all(q and a for q, a in parse(reply))
    for question in candidates(reply, DOG):
        assert chat.says(DOG.text, question.answer) or chat.normalise(question.answer) in ("i", "you", "me")
        assert not chat.says(question.text, question.answer)


@given(st.text(min_size=1))
def test_a_cloze_is_the_statement_with_its_end_left_out(text: str) -> None:
    for q in cloze(Statement(0, 0, 1, " ".join(text.split()))):
        assert q.direction == "cloze"
        assert q.answer
        assert q.text.startswith("Complete: ")


KNOWN = [
    Question("What is my dog called?", "Zorvik", 0),
    Question("Which port does the backup server listen on?", "8472", 1),
    Question("When was Ilse's brother born in 1984?", "May", 2),
]


def test_near_misses_are_the_same_for_the_same_seed_and_no_other() -> None:
    first = near_misses(KNOWN, 5, seed=1)
    assert first == near_misses(KNOWN, 5, seed=1)
    assert first != near_misses(KNOWN, 5, seed=2)
    assert len(set(first)) == len(first) > 8


@given(st.lists(st.text(max_size=40), max_size=4), st.integers(0, 9))
def test_a_near_miss_is_never_an_answerable_question(texts: list[str], seed: int) -> None:
    questions = [*KNOWN, *(Question(t, "Rex", 0) for t in texts)]
    known = {chat.normalise(q.text) for q in questions}
    for miss in near_misses(questions, 3, seed):
        assert chat.normalise(miss) not in known


@pytest.mark.parametrize("known", [[], [Question("Who is it?", "Rex", 0)]])
def test_nothing_to_vary_gives_no_near_misses(known: list[Question]) -> None:
    assert near_misses(known, 3, seed=0) == []


def test_decoys_are_questions_without_repeats() -> None:
    assert len(set(decoys())) == len(decoys()) > 64
    assert all(d.endswith("?") for d in decoys())
