"""The grader's verdicts on the cases of `graded.txt`, and what holds for any answer."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.text.answers import Expected, Verdict, foils, grade
from stillhouse.text.pieces import one_form
from stillhouse.text.tokens import tokens

VALUES = st.one_of(st.text(min_size=1, max_size=20), st.from_regex(r"[A-Za-z0-9 .,'&/-]{1,20}", fullmatch=True)).filter(
    str.strip
)
WORDS = st.from_regex(r"[BDFGKLMNPRSTVZ][aeiou][bdgklmnprstvz]{1,2}[aeiou][bdgklmprtvz]?[0-9]?", fullmatch=True)
PHRASES = (
    "7 May 2023", "May 7th", "twenty-one", "half past seven", "7:30 pm", "£38.40", "3 kilograms", "minus five", "noon",
    "the third floor", "03/04/2023", "1,250", "two million", "38,40 €", "Anna's dog", "5 percent", "B-7", "C++",
    "Dr. Holm", "kim@example.org", "May 2023", "in May", "7.30", "10.0.0.1", "旺财", "ज़ोरविक", "don't", "red/green",
    "21 °C",
)  # fmt: skip


class Case(NamedTuple):
    verdict: str
    answer: str
    value: str
    question: str
    foils: tuple[str, ...]
    aliases: tuple[str, ...]
    why: str


def _case(line: str) -> Case:
    verdict, answer, value, question, foils, aliases, why = (f.strip() for f in re.split(r" \|(?= |$)", line))
    return Case(verdict, answer.replace("\\n", "\n"), value, question, _several(foils), _several(aliases), why)


def _several(field: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in field.split(" ; ") if text.strip())


def _cases() -> list[Case]:
    lines = Path(__file__).with_name("graded.txt").read_text(encoding="utf-8").splitlines()
    return [_case(line) for line in lines if line.strip() and not line.startswith("#")]


CASES = _cases()


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.answer[:40]!r} for {c.value!r}")
def test_the_verdict_is_a_persons(case: Case) -> None:
    expected = Expected(case.value, case.aliases, case.foils, case.question)
    assert grade(case.answer, expected).verdict == case.verdict, case.why


def test_the_table_is_large_and_speaks_many_languages() -> None:
    assert len(CASES) >= 200
    assert sum(not case.answer.isascii() or not case.question.isascii() for case in CASES) >= 50
    assert {case.verdict for case in CASES} == {"correct", "wrong", "denied", "hedged"}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.value!r} of {c.question!r}")
def test_every_value_of_the_table_is_its_own_answer(case: Case) -> None:
    expected = Expected(case.value, case.aliases, foils(case.value, case.question, case.foils), case.question)
    for text in (case.value, *case.aliases):
        assert grade(text, expected).correct


@given(st.text(), VALUES, st.lists(VALUES, max_size=3), st.text(max_size=30))
def test_no_text_raises(answer: str, value: str, others: list[str], question: str) -> None:
    result = grade(answer, Expected(value, (), tuple(others), question))
    assert result.verdict in get_args(Verdict)
    for figure in (result.exact_match, result.f1, result.locomo_f1, result.recall):
        assert 0 <= figure <= 1


@given(VALUES, st.lists(VALUES, max_size=3), st.text(max_size=30))
def test_a_value_is_its_own_answer(value: str, others: list[str], question: str) -> None:
    expected = Expected(value, (), foils(value, question, others), question)
    assert grade(value, expected).correct
    assert grade(f"  {value}\n", expected).correct


@given(VALUES, st.lists(VALUES, max_size=4), st.text(max_size=30))
def test_a_foil_alone_is_never_right(value: str, others: list[str], question: str) -> None:
    against = foils(value, question, others)
    for other in against:
        assert not grade(other, Expected(value, (), against, question)).correct


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3), st.sampled_from(("{} or {}", "{}, {}", "{} {}", "{}. {}.")))
def test_a_foil_beside_the_value_is_wrong(value: str, others: list[str], both: str) -> None:
    against = foils(value, "", others)
    for other in against:
        if other.casefold() not in value.casefold() and value.casefold() not in other.casefold():
            assert not grade(both.format(value, other), Expected(value, (), against)).correct


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.answer[:40]!r}")
def test_case_and_spaces_make_no_difference(case: Case) -> None:
    expected = Expected(case.value, case.aliases, case.foils, case.question)
    verdict = grade(case.answer, expected).verdict
    if "\n" not in case.answer:
        assert grade(case.answer.upper(), expected).verdict == verdict
        assert grade(case.answer.replace(" ", "  "), expected).verdict == verdict
    loud = Expected(case.value.upper(), tuple(a.upper() for a in case.aliases), case.foils, case.question.upper())
    assert grade(case.answer, loud).verdict == verdict


@given(st.text())
def test_one_form_is_idempotent(text: str) -> None:
    once = one_form(text)
    assert one_form(once) == once
    assert tokens(once) == tokens(text)


@given(st.lists(st.sampled_from(PHRASES), max_size=6))
def test_tokens_are_idempotent(phrases: list[str]) -> None:
    keys = tokens(", ".join(phrases)).keys
    assert tokens(", ".join(keys)).keys == keys


@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_an_empty_value_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="the expected value is empty"):
        Expected(value)


@pytest.mark.parametrize(
    ("answer", "value", "measures"),
    [
        ("the dog is Zorvik.", "Zorvik", (0, 0.5, 0.5, 1)),
        ("Zorvik", "Zorvik", (1, 1, 1, 1)),
        ("It is Zorvik or Brem.", "Zorvik", (0, 1 / 3, 1 / 3, 1)),
        ("May 7th, 2023", "7 May 2023", (0, 2 / 3, 2 / 3, 1)),
        ("Anna", "Anna and Bo", (0, 0.5, 2 / 3, 1 / 3)),
        ("", "Zorvik", (0, 0, 0, 0)),
    ],
)
def test_measures_are_those_that_others_publish(answer: str, value: str, measures: tuple[float, ...]) -> None:
    result = grade(answer, Expected(value))
    found = (result.exact_match, result.f1, result.locomo_f1, result.recall)
    assert found == pytest.approx(measures)


def test_foils_are_the_other_values_that_are_no_answer_themselves() -> None:
    others = ["Brem", "zorvik", "Tolu", "The dog is Zorvik", "dog", "", "Brem"]
    assert foils("Zorvik", "What is my dog called?", others) == ("Brem", "Tolu", "dog")
    assert foils("Dr. Holm", "Who is my dentist?", ["Holm", "Dr. Berg"]) == ("Dr. Berg",)


def test_short_answers_are_graded_quickly() -> None:
    """A gate asks thousands of questions. The target is 20,000 a second; a busy machine may take five times as long."""
    names = [f"{a}{b}{c}" for a in ("Zo", "Bre", "Ku") for b in ("r", "l", "m") for c in ("vik", "do", "ta")]
    asked = [Expected(n, (), foils(n, f"What is {n[0]} called?", names), f"What is {n[0]} called?") for n in names]
    start = time.perf_counter()
    for turn in range(40):
        for expected in asked:
            grade(f"It is called {names[turn % 27]} {turn}.", expected)
    assert 40 * len(asked) / (time.perf_counter() - start) > 4000
