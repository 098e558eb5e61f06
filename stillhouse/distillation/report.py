"""Stage 4 of a distillation: from a student's measures to its files.

In: a trained student, its comparisons with its teacher. Out: per lesson `model/` (a Hugging Face folder) or `adapter/`
(PEFT's), `report.html` and `report.json`; with several domains the router, and a report over all of them. `report.json`
is written last: a folder with one is finished.

It does not know how the student was trained or measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import as_dict
from ..export import peft
from ..feeds.same_tokens import SameTokens
from ..models import Model
from ..report import page
from ..storage.files import make_folder
from ..train import full
from . import router
from .data import request_text
from .evaluate import lengths
from .measure import Comparison
from .pages import domains_page, student_page
from .plan import Distilled, StudentPlan
from .signals import RecipeSignals
from .student import write_folder
from .train import TrainedStudent

NAME = "report"  # .html for people, .json for programs


def write_report(
    signals: RecipeSignals, plan: StudentPlan, student: TrainedStudent, comparisons: Sequence[Comparison],
    twins: Sequence[Distilled],
) -> None:  # fmt: skip
    """All files of a student. `twins`: the same student trained off-policy, per lesson, where there is one."""
    contents = []
    for slot, comparison in enumerate(comparisons):
        folder = plan.folder / comparison.lesson.name
        _write_weights(folder, student.model, student.trained, slot)
        content = _content(signals, plan, student, comparison, slot)
        content |= {"off_policy": as_dict(twins[slot].after)} if twins else {}
        page.write(folder, NAME, student_page(content), content)
        contents.append(content)
    if signals.recipe.domains:
        summary = _summary(signals, plan, contents) | {"router": _router(signals, plan, student.model)}
        page.write(plan.folder, NAME, domains_page(summary), summary)


def _content(
    signals: RecipeSignals, plan: StudentPlan, student: TrainedStudent, comparison: Comparison, slot: int
) -> dict[str, Any]:
    """What the report of one lesson holds."""
    lesson, captured = comparison.lesson, comparison.lesson.signals
    sides = {"teacher": comparison.teacher, "before": comparison.before.answers, "after": comparison.after.answers}
    losses, validation = student.trained.by_slot[slot], student.trained.validation[slot]
    distilled = Distilled(
        plan.name, plan.folder / lesson.name, len(losses), comparison.before.metrics, comparison.after.metrics,
        sum(p.numel() for p in student.model.network.parameters()), signals.teacher.parameters,
        isinstance(student.feed, SameTokens), getattr(student.feed, "skipped", 0), lengths(*sides.values()),
        lesson.name, student.trained.best[slot],
    )  # fmt: skip
    settings = {"student": as_dict(plan.student), "capture": captured.config, "teacher": signals.teacher.ref}
    if lesson.name:
        settings["domain"] = as_dict(lesson.data)
    validated = {"validation": [[step, round(loss, 5)] for step, loss in validation]} if validation else {}
    return distilled.as_dict() | validated | {
        "settings": settings,
        "signals": {
            "folder": str(captured.folder), "examples": captured.examples, "positions": captured.positions,
            "skipped": list(captured.skipped),
        },
        "losses": [round(x, 5) for x in losses],
        "samples": [
            {"prompt": request_text(request)} | {side: answers[i].text for side, answers in sides.items()}
            for i, request in enumerate(comparison.requests[: signals.recipe.samples])
        ],
    }  # fmt: skip


def _summary(signals: RecipeSignals, plan: StudentPlan, contents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the report over all domains holds, made of their own reports."""
    names = [*(field.name for field in fields(Distilled)), "losses"]
    recipe, first = signals.recipe, contents[0]
    return {
        "name": plan.name,
        "domains": [
            {name: content[name] for name in names if name in content}
            | {"folder": content["domain"], "signals": content["signals"]["folder"]}
            for content in contents
        ],
        "settings": {
            "student": as_dict(plan.student), "teacher": signals.teacher.ref, "router": as_dict(recipe.router)
        },
        "parameters": first["parameters"],
        "teacher_parameters": first["teacher_parameters"],
    }  # fmt: skip


def _router(signals: RecipeSignals, plan: StudentPlan, model: Model) -> dict[str, Any]:
    """Learn the router over the domains and write it. Returns how good it is."""
    requests = [(lesson.name, lesson.train, lesson.held_out) for lesson in signals.lessons]
    learned, metrics = router.learn(model, requests, signals.recipe.router)
    router.save(learned, plan.folder / router.FILE)
    return as_dict(metrics)


def _write_weights(folder: Path, model: Model, trained: full.Trained, slot: int) -> None:
    """The model as a Hugging Face folder, or the adapter in `slot` as a PEFT folder."""
    make_folder(folder)
    adapter = trained.adapter(str(model.path), slot)
    if adapter is None:
        shutil.rmtree(folder / "model", ignore_errors=True)
        write_folder(folder / "model", model.network, model.tokenizer)
    else:
        peft.write(folder / "adapter", *adapter)
