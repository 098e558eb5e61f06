"""What is asked about a statement: the teacher's lines, checked; and what the memory does not answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.capture.memory.questions import (
    candidates,
    cloze,
    hardest,
    lost_words,
    mask,
    near_misses,
    parse,
    repair,
    unmask,
)
from stillhouse.records import Question, Statement
from stillhouse.text.answers import mentions, normalise
from stillhouse.text.language import decoys

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
    assert all(question for question, _ in parse(reply))
    for question in candidates(reply, DOG):
        assert mentions(DOG.text, question.answer) or normalise(question.answer) in ("i", "you", "me")
        assert not mentions(question.text, question.answer)


@pytest.mark.parametrize(
    ("told", "reply", "right"),
    [
        ("My vegetable is the leek.", "What vegetain do I eat? | the leek", "What vegetable do I eat? | the leek"),
        ("The regatta is on Thursday.", "When is theregatta? | Thursday", "When is the regatta? | Thursday"),
        ("DG4217 opens the chapel.", "What opens the chapel? | g4217", "What opens the chapel? | DG4217"),
        ("The server stands in Kloukean.", "Where does the server stand? | Kloukean", None),
        ("The server stands in Kloukean.", "Where is the sauna hosted? | Kloukean", None),
        ("Anna's dog is old.", "How old is Anna's dog? | old", None),
    ],
)
def test_a_word_nearly_copied_is_put_right_and_no_other(told: str, reply: str, right: str | None) -> None:
    assert repair(reply, Statement(0, 0, len(told), told)) == (right or reply)


@given(st.text(alphabet="abcXYZ 0123|?'-\n", max_size=80))
def test_repair_leaves_what_the_statement_says_itself(reply: str) -> None:
    assert repair(DOG.text, DOG) == DOG.text
    assert repair(repair(reply, DOG), DOG) == repair(reply, DOG)


def test_a_word_in_another_form_is_not_lost() -> None:
    server = Statement(0, 0, 0, "The server Wagroox stands in Kloukean.")
    assert lost_words("Where does the server Wagroox stand? | Kloukean", server) == []
    assert lost_words("Where does the server stand? | Kloukean", server) == ["Wagroox"]
    sign = Statement(0, 0, 0, "I have the call sign KY8290.")
    assert lost_words("What is my mentor? | KY8290", sign) == ["call sign"], "one thing, not two"
    assert lost_words("What is my call? | KY8290", sign) == ["sign"]


def test_the_hardest_word_is_a_compound_or_has_most_tokens() -> None:
    assert hardest(Statement(0, 0, 0, "Oscar has the tax code Z9262."), len) == ["tax code"]
    assert hardest(Statement(0, 0, 0, "I have the call sign KY8290."), len) == ["call sign"]
    assert hardest(Statement(0, 0, 0, "The code for the chapel is 7."), len) == ["chapel"]
    assert hardest(Statement(0, 0, 0, "The regatta is on Thursday."), len) == ["Thursday"]
    assert hardest(Statement(0, 0, 0, "It is 20."), len) == []


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
    known = {normalise(q.text) for q in questions}
    for miss in near_misses(questions, 3, seed):
        assert normalise(miss) not in known


@pytest.mark.parametrize("known", [[], [Question("Who is it?", "Rex", 0)]])
def test_nothing_to_vary_gives_no_near_misses(known: list[Question]) -> None:
    assert near_misses(known, 3, seed=0) == []


def test_decoys_are_questions_without_repeats() -> None:
    assert len(set(decoys())) == len(decoys()) > 64
    assert all(d.endswith("?") for d in decoys())


@pytest.mark.parametrize(
    ("said", "once"),
    [
        ("What is Emma's desk number's desk number? | B7", "What is Emma's desk number? | B7"),
        ("What is the desk number of Emma's desk number? | B7", "What is the desk number of Emma? | B7"),
        ("Which desk number does Emma does Emma have? | B7", "Which desk number does Emma have? | B7"),
        ("What is Emma's desk number? | B7", "What is Emma's desk number? | B7"),
    ],
)
def test_what_a_teacher_said_twice_is_said_once(said: str, once: str) -> None:
    statement = Statement(0, 0, 30, "The desk number of Emma is B7.")
    assert repair(said, statement) == once
    assert (
        repair("Where is Walla Walla? | B7", Statement(0, 0, 18, "Walla Walla is B7.")) == "Where is Walla Walla? | B7"
    )


def test_a_question_that_stutters_is_none() -> None:
    statement = Statement(0, 0, 30, "The desk number of Emma is B7.")
    reply = "What is Emma's desk number? | B7\nWhich Emma has the desk of Emma? | B7\nWhat is Emma's number? | B7"
    assert [q.text for q in candidates(reply, statement)] == ["What is Emma's desk number?", "What is Emma's number?"]


@pytest.mark.parametrize("capital", [False, True])
def test_a_paragraph_with_more_words_than_stand_ins(capital: bool) -> None:
    words = [f"{'Zeb' if capital else 'zeb'}{'abcdefghij'[n // 10]}{'klmnopqrst'[n % 10]}" for n in range(100)]
    text = f"There {' '.join(words)}."
    masked, stand_ins = mask(text, words, turn=1)
    assert 0 < len(stand_ins) < len(words)
    assert sorted(stand_ins.values()) == words[: len(stand_ins)], "the first; the others stay as they are"
    assert masked.endswith(f"{words[-1]}.")
    assert unmask(masked, stand_ins) == text
