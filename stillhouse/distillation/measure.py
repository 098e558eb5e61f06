"""Stage 3 of a distillation: from a trained student to its measures, data set by data set.

In: `RecipeSignals`, a student's model with its adapters, its evaluation from before its training. Out: a `Comparison`
per lesson. It does not know how the student was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..capture.prompts import Example
from ..lora import AdapterBank
from ..models import Model
from .evaluate import Answer, Evaluation, answer, measure
from .feed import feed_of
from .signals import Lesson, RecipeSignals


@dataclass(frozen=True)
class Comparison:
    """One lesson: the student before and after its training, beside its teacher. Answers are to the same requests."""

    lesson: Lesson
    requests: list[Example]
    before: Evaluation
    after: Evaluation
    teacher: list[Answer]


def evaluate_student(signals: RecipeSignals, model: Model, bank: AdapterBank | None = None) -> list[Evaluation]:
    """The student on every lesson's held-out examples, with the lesson's adapter where there is a bank."""
    evaluations = []
    for slot, lesson in enumerate(signals.lessons):
        assert lesson.held_out_signals, "signals for students are collected with held-out examples"
        feed, _ = feed_of(model, [lesson.held_out_signals])
        answers = answer(model, _requests(signals, lesson), signals.recipe.capture.max_new_tokens, bank, slot)
        evaluations.append(Evaluation(measure(model, feed, bank, slot), answers))
    return evaluations


def measure_student(
    signals: RecipeSignals, model: Model, bank: AdapterBank | None, before: Sequence[Evaluation]
) -> list[Comparison]:
    """The student after its training, beside itself `before` and its teacher."""
    comparisons = []
    for lesson, old, new in zip(signals.lessons, before, evaluate_student(signals, model, bank), strict=True):
        requests = _requests(signals, lesson)
        teacher = signals.teacher.answers(requests, signals.recipe.capture.max_new_tokens)
        comparisons.append(Comparison(lesson, requests, old, new, teacher))
    return comparisons


def _requests(signals: RecipeSignals, lesson: Lesson) -> list[Example]:
    """The held-out requests that everybody answers."""
    return lesson.requests(max(signals.recipe.samples, signals.recipe.answers))
