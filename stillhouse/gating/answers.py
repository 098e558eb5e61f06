"""What answers to a study's questions are expected to say, and the result of a gate that counts right answers.

In: a study, and answers. Out: what is expected of each answer, with the memory's other values as foils; proportions
with Wilson's interval. What "right" means, `text/answers.py` says, for every gate and everybody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from ..records import GateResult, Question, Study
from ..text.answers import Expected, Grade, Verdict, foils, grade
from .measure import Measure
from .stats import wilson


def expectations(study: Study) -> dict[Question, Expected]:
    """What is expected of an answer to each question.

    Foils are the answers about other statements: to reverse questions those of reverse questions, to all others those
    of all others. Where the memory does not answer, any of its values beside "I don't know" is a guess.
    """
    backwards = {(q.statement, q.answer) for q in study.questions if q.direction == "reverse"}  # also as orders
    by_kind: dict[bool, dict[str, set[int | None]]] = {True: {}, False: {}}
    for question in study.questions:
        if question.direction != "unknown":
            values = by_kind[(question.statement, question.answer) in backwards]
            values.setdefault(question.answer, set()).add(question.statement)
    return {q: _expected(q, by_kind[(q.statement, q.answer) in backwards]) for q in study.questions}


def _expected(question: Question, values: Mapping[str, set[int | None]]) -> Expected:
    others = [value for value, statements in values.items() if question.statement not in statements]
    return Expected(question.answer, (), foils(question.answer, question.text, others), question.text)


def expected_by_text(study: Study) -> dict[str, Expected]:
    """The same by the question's text, for those who have no more than that."""
    return {question.text: expected for question, expected in expectations(study).items()}


def held_out(study: Study) -> list[Question]:
    """The questions about statements of the memory that nothing was trained on."""
    return [q for q in study.questions if q.use == "held_out" and q.direction != "unknown"]


def share(
    measure: Measure,
    questions: Sequence[Question],
    answers: Sequence[str],
    expected: Mapping[Question, Expected],
    threshold: float,
) -> GateResult:
    """The share of questions answered right. `details["questions"]` has one row for each, `details["verdicts"]` the
    number of answers with each verdict, `details["f1"]` their mean F1 (SQuAD's)."""
    grades = [grade(answer, expected[q]) for q, answer in zip(questions, answers, strict=True)]
    n, hits = len(grades), sum(g.correct for g in grades)
    if n == 0:
        return measure.result(None, threshold, 0, note="the study has no such questions")
    rows = [_row(*row) for row in zip(questions, answers, grades, strict=True)]
    counts = verdicts(grades)
    details = {"questions": rows, "verdicts": counts, "f1": sum(g.f1 for g in grades) / n}
    return measure.result(hits / n, threshold, n, wilson(hits, n), f"{hits} of {n}{not_correct(counts)}", details)


def verdicts(grades: Iterable[Grade]) -> dict[str, int]:
    """How many answers got each verdict."""
    counts = Counter(g.verdict for g in grades)
    return {verdict: counts[verdict] for verdict in get_args(Verdict)}


def not_correct(counts: Mapping[str, int]) -> str:
    """The verdicts that are not "correct", for a note: ": 2 wrong, 1 denied"."""
    rest = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n and verdict != "correct")
    return f": {rest}" if rest else ""


def _row(question: Question, answer: str, grade: Grade) -> dict[str, Any]:
    return {
        "question": question.text,
        "expected": question.answer,
        "answer": answer,
        "right": grade.correct,
        "verdict": grade.verdict,
        "statement": question.statement,
        "direction": question.direction,
    }
