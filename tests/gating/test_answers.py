"""What counts as a right answer, and the gates that count them."""

from __future__ import annotations

import pytest

from stillhouse.gate import paraphrase, recall, swap, unknown
from stillhouse.gating import Context
from stillhouse.gating.answers import expectations, expected_by_text, share
from stillhouse.records import Question, Statement, Study
from stillhouse.text.answers import Expected, grade
from stillhouse.text.prompts import UNKNOWN_ANSWER
from tests.gating.conftest import BROKEN, FRESH, STUDENT, WILD, Bench

STATEMENTS = tuple(Statement(i, 0, 1, f"Statement {i}.") for i in range(3))


def test_foils_are_the_answers_about_other_statements() -> None:
    dog = Question("What is my dog called?", "Rex", 0)
    study = Study(
        STATEMENTS,
        (
            dog,
            Question("Who is Rex?", "my dog", 0, "reverse"),
            Question("Name Rex's kind.", "my dog", 0, "request"),
            Question("What is my cat called?", "Tom", 1),
            Question("Who is Tom?", "my cat", 1, "reverse"),
            Question("Complete: My lizard is ...", "called Rex", 2, "cloze"),
            Question("Which is the code?", "7714", 2, "forward", "held_out"),
            Question("What is my horse called?", UNKNOWN_ANSWER, None, "unknown"),
        ),
    )
    expected = expectations(study)
    assert expected[dog] == Expected("Rex", (), ("Tom", "7714"), dog.text)
    assert expected[study.questions[1]].foils == ("my cat",)
    assert expected[study.questions[2]].foils == ("my cat",), "an order in reverse"
    assert set(expected[study.questions[-1]].foils) == {"Rex", "Tom", "called Rex", "7714"}
    assert expected_by_text(study)[dog.text] is not None


def test_what_one_statement_says_is_no_foil_of_its_own() -> None:
    asked = (Question("Where does Ida live?", "Portland", 0), Question("Where does Ida work?", "Chicago", 0))
    assert all(e.foils == () for e in expectations(Study(STATEMENTS, asked)).values())


def test_any_way_of_not_knowing_is_right_where_nothing_is_known() -> None:
    question = Question("What is my cat called?", UNKNOWN_ANSWER, None, "unknown", "held_out")
    study = Study(STATEMENTS, (Question("What is my dog called?", "Rex", 0), question))
    expected = expectations(study)[question]
    assert grade("That is not mentioned.", expected).correct
    assert grade("", expected).verdict == "wrong"
    assert grade("Tom", expected).verdict == "wrong"
    assert grade("I don't know, perhaps Rex.", expected).verdict == "hedged"


def test_verdicts_are_counted_apart() -> None:
    asked = [Question(f"Dog {n}?", "Rex", 0) for n in range(5)]
    answers = ["Rex", "It is Rex.", "Max", "I don't know.", "I don't know, maybe Rex."]
    result = share(recall.MEASURE, asked, answers, expectations(Study(STATEMENTS, tuple(asked))), 0.5)
    assert result.details["verdicts"] == {"correct": 2, "wrong": 1, "denied": 1, "hedged": 1}
    assert result.note.startswith("2 of 5: 1 wrong, 1 denied, 1 hedged")
    assert [row["right"] for row in result.details["questions"]] == [True, True, False, False, False]
    assert result.value == 0.4


def test_each_gate_asks_its_own_questions(bench: Bench) -> None:
    ctx = bench.context(STUDENT)
    trained = recall.check(bench.candidate, recall.Config(), ctx)
    assert {row["direction"] for row in trained.details["questions"]} == {"forward", "reverse", "cloze"}
    assert (trained.n, trained.value, trained.passed) == (5, 1.0, True)
    worded = paraphrase.check(bench.candidate, paraphrase.Config(), ctx)
    assert [row["question"] for row in worded.details["questions"]] == [
        "Name of the dog?",
        "Which code opens the door?",
    ]
    honest = unknown.check(bench.candidate, unknown.Config(), ctx)
    assert [row["question"] for row in honest.details["questions"]] == ["What is the colour of the door?"]
    assert honest.passed


def test_an_expected_answer_the_student_does_not_give_counts_against_it(bench: Bench) -> None:
    wrong = Question("Name of the dog?", "Max", 0, "forward", "held_out")
    study = Study(bench.study.statements, (*bench.study.questions[:2], wrong))
    result = paraphrase.check(bench.candidate, paraphrase.Config(), bench.context(STUDENT, study))
    assert (result.value, result.passed) == (0.0, False)
    assert result.details["questions"][0]["answer"] == "Rex"


def test_swap_finds_a_memory_in_somebody_elses_adapter(bench: Bench) -> None:
    clean = swap.check(bench.candidate, swap.Config(), bench.context(STUDENT, others=(FRESH, WILD)))
    assert (clean.value, clean.n, clean.passed) == (0.0, 6, True)
    leaking = swap.check(bench.candidate, swap.Config(), bench.context(FRESH, others=(STUDENT, FRESH)))
    assert leaking.value == pytest.approx(2 / 4)
    assert not leaking.passed
    assert {leak["by"] for leak in leaking.details["leaks"]} == {f"slot {STUDENT}"}


def test_swap_without_other_users_asks_the_base_alone(bench: Bench) -> None:
    result = swap.check(bench.candidate, swap.Config(), bench.context(STUDENT))
    assert (result.n, result.passed) == (2, True)
    assert "no other users" in result.note


def test_swap_draws_the_same_others_every_time(bench: Bench) -> None:
    config = swap.Config(adapters=1)
    results = [swap.check(bench.candidate, config, bench.context(STUDENT, others=(FRESH, WILD))) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].n == 4


def test_gates_share_answers(bench: Bench) -> None:
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    ctx = bench.context(STUDENT)
    hook = bench.model.network.register_forward_hook(count)
    try:
        recall.check(bench.candidate, recall.Config(), ctx)
        first = passes
        paraphrase.check(bench.candidate, paraphrase.Config(), ctx)
        unknown.check(bench.candidate, unknown.Config(), ctx)
    finally:
        hook.remove()
    assert first > 0
    assert passes == first


def test_slot_minus_one_is_the_base(bench: Bench) -> None:
    ctx = bench.context(STUDENT)
    questions = [q.text for q in bench.study.questions]
    assert ctx.answers(questions, -1) == ctx.answers(questions, FRESH)
    assert ctx.answers(questions, -1) != ctx.answers(questions, STUDENT)


def test_answers_may_be_as_long_as_the_expected_ones(bench: Bench) -> None:
    long = Question("Say it all?", "seven " * 60, 0)
    study = Study(bench.study.statements, (long,))
    ctx = Context(bench.runner, WILD, study, texts=())
    assert ctx.answer_limit == 2 * len(bench.model.text_ids(long.answer)) > 48


def test_a_broken_adapter_raises_before_it_answers(bench: Bench) -> None:
    with pytest.raises(FloatingPointError, match="NaN"):
        bench.context(BROKEN).answers(["What is my dog called?"], BROKEN)
