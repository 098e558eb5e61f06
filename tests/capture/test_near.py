"""What a memory does not answer: questions one word away, about somebody or something else, that still make sense."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse import chat
from stillhouse.capture._near import decoys, near_misses
from stillhouse.records import Question

KNOWN = [
    Question("What is my dog called?", "Zorvik", 0),
    Question("Which port does the backup server listen on?", "8472", 1),
    Question("When was Ilse's brother born in 1984?", "May", 2),
]


def misses(question: str, answer: str = "Rex") -> list[str]:
    return near_misses([Question(question, answer, 0)], 200, seed=3)


def test_they_are_the_same_for_the_same_seed_and_no_other() -> None:
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
def test_nothing_to_vary_gives_none(known: list[Question]) -> None:
    assert near_misses(known, 3, seed=0) == []


@pytest.mark.parametrize(
    ("question", "form", "parts"),
    [
        (
            "Which port does the backup server listen on?",
            r"Which (\w+) does the (\w+) server listen on\?",
            "port backup",
        ),
        ("Where did I grow up?", r"Where did (\w+) grow up\?", "I"),
        ("What do I eat for lunch?", r"What (do I|does \w+) eat for (\w+)\?", "do_I lunch"),
        ("What is Ilse's favourite drink?", r"What is (\w+)'s favourite (\w+)\?", "Ilse drink"),
        ("What is the name of the chat server?", r"What is the name of the (\w+) (\w+)\?", "chat server"),
        ("When is the project Quorl due?", r"When is the (\w+) (\w+) due\?", "project Quorl"),
        ("What is 4711 the code for?", r"What is (\d{4}) the (\w+) for\?", "4711 code"),
        ("Whose locker is kiez73?", r"Whose (\w+) is (kiez\d\d)\?", "locker kiez73"),
        ("Where is my map kept?", r"Where is (my|\w+'s) (\w+) kept\?", "my map"),
    ],
)
def test_another_person_thing_or_number_but_never_another_verb(question: str, form: str, parts: str) -> None:
    changed = set()
    for miss in misses(question):
        found = re.fullmatch(form, miss)
        assert found is not None, miss
        changed |= {old for old, new in zip(parts.split(), found.groups(), strict=True) if new != old.replace("_", " ")}
    assert changed == set(parts.split())


def test_a_question_of_an_unknown_form_has_any_word_changed() -> None:
    found = misses("wie heisst unser hund?")
    assert len({tuple(miss.split()) for miss in found}) > 10
    assert all(
        sum(a != b for a, b in zip(m.split(), "wie heisst unser hund?".split(), strict=True)) == 1 for m in found
    )


def test_decoys_are_questions_without_repeats() -> None:
    assert len(set(decoys())) == len(decoys()) > 64
    assert all(d.endswith("?") for d in decoys())
