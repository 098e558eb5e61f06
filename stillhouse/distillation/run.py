"""Distil a teacher into students: a recipe goes through its stages, signals, students, measures, report.

In: a recipe (TOML, or `Recipe`): a teacher, data, capture settings, and one table per student. Out: per student a
folder with the model or the adapter, `report.html` and `report.json`. Everything is under `home` in folders named by
the digest of what they are made from. So a killed run is run again and goes on, and a second recipe with the same
teacher and data finds the signals made.

A recipe of several domains gives every student one specialist per domain and a router over them. A student whose
tokenizer is not the teacher's is trained on chunks of bytes. It does not know kinds of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..capture.prompts import Captured
from ..errors import InputError
from ..inputs import home_folder
from ..report import page
from . import router
from .audit import Audit, audit_student
from .data import read
from .measure import measure_student
from .pages import audit_page
from .plan import Distilled, StudentPlan, plan_of
from .recipe import Recipe
from .report import write_report
from .signals import RecipeSignals, collect_signals
from .specialists import Specialists
from .student import Student
from .train import load_student, train_student


def distill(recipe: Recipe, *, home: Path | str | None = None, show: bool = False) -> list[Distilled]:
    """Capture what is missing, train every student that is not there yet, measure, and write the reports.

    With domains, one `Distilled` per student and domain. Under `torchrun` every process calls this. `InputError`: what
    the recipe asks for is not possible; `StoreError`: what an earlier run left is damaged.
    """
    if not recipe.students:
        raise InputError("recipe: no students; give at least one table such as [students.small]")
    signals = collect_signals(recipe, home_folder(home), show)
    return [one for name, student in recipe.students for one in _distilled(signals, name, student)]


def _distilled(signals: RecipeSignals, name: str, student: Student) -> list[Distilled]:
    """One student, made unless it is finished."""
    plan = plan_of(signals, name, student)
    return plan.work.once(lambda folder: _make(signals, plan))


def _make(signals: RecipeSignals, plan: StudentPlan) -> None:
    """Train, measure and report one student. The first process measures and writes."""
    twins = _off_policy(signals, plan)
    student = train_student(signals, plan)
    bank = student.trained.bank
    try:
        if signals.ranks.first:
            comparisons = measure_student(signals, student.model, bank, student.before)
            write_report(signals, plan, student, comparisons, twins)
    finally:
        if bank:
            bank.detach()
    signals.ranks.wait()


def _off_policy(signals: RecipeSignals, plan: StudentPlan) -> list[Distilled]:
    """The same student trained on stored signals alone, at equal steps, where it is to be compared with that."""
    student = plan.student
    if student.on_policy is None or not student.on_policy.compare:
        return []
    return _distilled(signals, f"{plan.name}-off-policy", replace(student, on_policy=None))


def capture(recipe: Recipe, *, home: Path | str | None = None, show: bool = False) -> tuple[Captured, Captured | None]:
    """The teacher's signals on training and held-out examples of the first data set, made where they are missing."""
    return next(iter(captures(recipe, home=home, show=show).values()))


def captures(
    recipe: Recipe, *, home: Path | str | None = None, show: bool = False
) -> dict[str, tuple[Captured, Captured | None]]:
    """The same of every domain, by its name. None stands for held-out examples where nothing is held out."""
    lessons = collect_signals(recipe, home_folder(home), show, measured=False).lessons
    return {lesson.name: (lesson.signals, lesson.held_out_signals) for lesson in lessons}


def audit(
    recipe: Recipe,
    *,
    home: Path | str | None = None,
    asked: Sequence[str] = (),
    correct: int = 0,
    margin: float = 0.5,
    show: bool = False,
) -> list[Audit]:
    """The teacher as auditor of every student, on held-out requests, or on those of the data sets `asked`.

    With `correct`, answers to as many training requests (or to those `asked`) that are `margin` nats per token less
    likely to the teacher than its own are corrected in the `corrections` file of the data set. Held-out requests never
    are. Writes `audit.html` and `audit.json` beside the student. `InputError`: a student that is not trained yet.
    """
    signals = collect_signals(recipe, home_folder(home), show)
    requests = read(asked, recipe.folder) if asked else []
    audits: list[Audit] = []
    for name, student in recipe.students:
        plan = plan_of(signals, name, student)
        of_student = audit_student(signals, plan, requests, correct, margin)
        content = [one.as_dict() for one in of_student]
        page.write(plan.folder, "audit", audit_page(content), {"audits": content})
        audits += of_student
    return audits


def specialists(recipe: Recipe, name: str, *, home: Path | str | None = None) -> Specialists:
    """The specialists of a trained student, with their router and the teacher, ready to answer."""
    student = dict(recipe.students).get(name)
    if student is None or not recipe.domains:
        names = ", ".join(n for n, _ in recipe.students) or "none"
        raise InputError(f"student {name!r}: no specialists of that name; students of this recipe: {names}")
    signals = collect_signals(recipe, home_folder(home), False)
    plan = plan_of(signals, name, student)
    model, bank = load_student(signals, plan)
    assert bank is not None, "specialists are adapters"
    known = router.load(plan.folder / router.FILE, model)
    return Specialists(model, bank, known, recipe, signals.teacher.teacher)
