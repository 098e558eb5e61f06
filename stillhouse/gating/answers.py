"""Whether answers are right, and the result of a gate that counts right answers.

In: answers and the expected ones. Out: yes or no, and proportions with Wilson's interval. This is the one place that
says what "right" means, for every gate.

It does not know paraphrases: "eight" is not "8", and "not Rex" counts as saying "Rex".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..records import GateResult, Question, Study
from ..text.answers import normalise, same_answer, says
from ..text.language import is_unknown
from .measure import Measure
from .stats import wilson

LONGEST = 4  # times the words of the expected answer: a longer answer buries it, and is not right


def right(answer: str, expected: str) -> bool:
    """Whether an answer is the expected one, or says it without burying it among many other words."""
    if same_answer(answer, expected):
        return True
    return says(answer, expected) and _words(answer) <= LONGEST * _words(expected)


def as_expected(answer: str, question: Question) -> bool:
    """Whether an answer is right. For what the memory does not say, "I don't know" is right, in any words."""
    return is_unknown(answer) if question.direction == "unknown" else right(answer, question.answer)


def held_out(study: Study) -> list[Question]:
    """The questions about statements of the memory that nothing was trained on."""
    return [q for q in study.questions if q.use == "held_out" and q.direction != "unknown"]


def share(measure: Measure, questions: Sequence[Question], answers: Sequence[str], threshold: float) -> GateResult:
    """The share of questions answered as expected; `details["questions"]` has one row for each."""
    rows = [_row(q, a) for q, a in zip(questions, answers, strict=True)]
    n, hits = len(rows), sum(row["right"] for row in rows)
    if n == 0:
        return measure.result(None, threshold, 0, note="the study has no such questions")
    return measure.result(hits / n, threshold, n, wilson(hits, n), f"{hits} of {n}", {"questions": rows})


def _row(question: Question, answer: str) -> dict[str, Any]:
    return {
        "question": question.text,
        "expected": question.answer,
        "answer": answer,
        "right": as_expected(answer, question),
        "statement": question.statement,
        "direction": question.direction,
    }


def _words(answer: str) -> int:
    return len(normalise(answer).split())
