"""One student of a recipe: what it is made from, where, and what came of it.

In: the teacher's signals, a student's table. Out: a `StudentPlan`: the settings as they are used, the digest of
everything that the student is made from, and its place `students/<name>-<digest>/` under home. Once the place holds
`report.json`, the student is finished, and its result is read from there: `Distilled`, one per domain.

It does not load models, and does not write what it reads: `report.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .. import models
from ..capture.prompts import Captured
from ..config import as_dict
from ..errors import StoreError
from ..records import BestStep, digest, from_mapping
from ..work import Work
from .evaluate import Lengths, Metrics
from .signals import RecipeSignals
from .student import Student

REPORT = "report.json"


@dataclass(frozen=True)
class Distilled:
    """One student, or its specialist of one domain. `before` and `after` its training it was compared with its teacher
    on held-out signals."""

    name: str
    folder: Path
    steps: int
    before: Metrics
    after: Metrics
    parameters: int
    teacher_parameters: int
    """0 where the teacher is an endpoint."""
    same_tokens: bool
    """Whether the student has the teacher's tokenizer."""
    skipped: int
    """Training examples that could not be aligned with another tokenizer."""
    lengths: Lengths
    domain: str = ""
    best: BestStep | None = field(default=None, metadata={"later": True})
    """The step that it is of, where validation chose it on the held-out signals that `after` is measured on."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return as_dict(self) | {"folder": str(self.folder)}


def read(file: Path) -> list[Distilled]:
    """A finished student, or its specialists. `ValueError`, `KeyError` or `TypeError`: a report that is damaged."""
    report = json.loads(file.read_bytes())
    if "domains" in report:
        return [one for domain in report["domains"] for one in read(file.parent / domain["folder"] / file.name)]
    names = [f.name for f in fields(Distilled) if f.name in report or not f.metadata.get("later")]
    values = {name: report[name] for name in names} | {"folder": file.parent}
    try:
        return [from_mapping(Distilled, values)]
    except StoreError as error:
        raise ValueError(f"{file}: {error}") from error


@dataclass(frozen=True)
class StudentPlan:
    """One student before it is made."""

    name: str
    student: Student
    """Its settings as they are used, which the report shows."""
    key: str
    """Digest of everything it is made from."""
    work: Work[list[Distilled]]
    """Finished once `report.json` is there."""

    @property
    def folder(self) -> Path:
        """Where it is made."""
        return self.work.folder


def plan_of(signals: RecipeSignals, name: str, student: Student) -> StudentPlan:
    """Where and from what `student` is made. `ModelError`: a model that is not there."""
    recipe, lessons = signals.recipe, signals.lessons
    student = _with_tail(student, [lesson.signals for lesson in lessons])
    base = (
        models.fingerprint(models.locate(student.model, signals.home)) if student.model else signals.teacher.fingerprint
    )
    shards = [one.shards for lesson in lessons for one in (lesson.signals, lesson.held_out_signals) if one]
    domains = [[lesson.name, as_dict(lesson.data)] for lesson in lessons] if recipe.domains else []
    key = digest([
        *shards, as_dict(student), base, recipe.seed, recipe.samples, recipe.answers, domains,
        as_dict(recipe.router) if domains else {}, as_dict(recipe.traces) if recipe.traces else None,
    ])  # fmt: skip
    return StudentPlan(name, student, key, Work(signals.home / "students" / f"{name}-{key[:16]}" / REPORT, read))


def _with_tail(student: Student, signals: Sequence[Captured]) -> Student:
    """The student with a tail that its signals can give.

    An endpoint's signals hold no draws from the tail. There the tail counts as one more token.
    """
    objective = student.train.objective
    if objective.tail not in ("steadied", "sampled") or all(one.tail == "sampled" for one in signals):
        return student
    return replace(student, train=replace(student.train, objective=replace(objective, tail="ghost")))
