"""What is audited, what is corrected, and the page about it.

In: a finished student, a lesson of its own or requests from elsewhere. Out: `Audit`s, rows in the corrections file of
the lesson, `audit.json` and `audit.html` beside the student. What is held out is judged and never corrected: a
correction becomes training data. It does not know how a student was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..capture.prompts import Example
from ..errors import InputError
from ..lora import AdapterBank
from ..models import Model
from ..records import canonical
from ..report import page
from ..storage.files import write_atomic
from .audit import Audit, Auditor, add, corrections
from .domains import Lesson
from .router import Router, hidden


@dataclass(frozen=True)
class Case:
    """One lesson of one student, before its auditor."""

    name: str
    lesson: Lesson
    auditor: Auditor
    model: Model
    bank: AdapterBank | None
    slot: int

    def audit(self, requests: Sequence[Example] | None, correct: int, margin: float, file: Path | None) -> Audit:
        """On `requests`, or on what is held out; with `correct`, corrections of them, or of that many training
        requests, go into `file`. `InputError`: nothing to ask, or nowhere to put corrections."""
        where = f"domains.{self.lesson.name}" if self.lesson.name else "data"
        if correct and file is None:
            raise InputError(
                f'{where}.corrections: missing; say where they go, for example corrections = "fixed.jsonl"'
            )
        held = _prompts(self.lesson.held if requests is None else requests)
        if not held:
            raise InputError(f"{where}: no prompts are held out, only running text; give requests with --prompts FILE")
        findings = self._findings(held)
        corrected = 0
        if correct and file is not None:
            asked = held if requests is not None else _prompts(self.lesson.train)[:correct]
            judged = findings if requests is not None else self._findings(asked)
            corrected = add(file, corrections(asked, judged, margin))
        return Audit(self.name, self.lesson.name, tuple(findings), corrected)

    def _findings(self, requests: Sequence[Example]) -> list[Any]:
        styled = [self.lesson.data.style(r) for r in requests]
        return self.auditor.audit(self.model, styled, self.bank, self.slot) if styled else []


def _prompts(examples: Sequence[Example]) -> list[Example]:
    """What is asked, each once, without the answers that may be given."""
    return list({repr(e): e for e in (Example(e.messages, e.text) for e in examples) if e.messages or e.text}.values())


def share(
    requests: Sequence[Example], lessons: Sequence[Lesson], model: Model, router: Router | None
) -> list[list[Example]] | None:
    """Requests from elsewhere by the lesson they are most like; None where there are none."""
    if not requests:
        return None
    if router is None:
        return [list(requests)]
    names = [route.nearest for route in router.route(hidden(model, requests))]
    return [[r for r, name in zip(requests, names, strict=True) if name == lesson.name] for lesson in lessons]


def write_audit(folder: Path, found: Sequence[Audit]) -> None:
    """`audit.html` and `audit.json`."""
    rows = [audit.as_dict() for audit in found]
    write_atomic(folder / "audit.html", _page(rows).encode())
    write_atomic(folder / "audit.json", canonical({"audits": rows}))


def _page(audits: Sequence[Mapping[str, Any]]) -> str:
    n = sum(a["n"] for a in audits)
    same = sum(a["same"] * a["n"] for a in audits) / n
    short = sum((a["own"] - a["likelihood"]) * a["n"] for a in audits) / n
    lead = (
        f"The teacher gives the same answer to <b>{same:.0%}</b> of {n} requests, and finds the student's answers "
        f"<b>{short:.2f}</b> nats a token less likely than its own."
    )
    heads = ["", ">Requests", ">Same answer", ">First choice", ">Likelihood", ">Its own", ">Corrected"]
    rows = [
        [page.cell(a["domain"] or a["name"], "name"), *(page.cell(text, "n", head.lstrip(">")) for text, head in zip((
            str(a["n"]), f"{a['same']:.0%}", f"{a['first']:.0%}", _nats(a["likelihood"]), _nats(a["own"]),
            str(a["corrected"])), heads[1:], strict=True))]
        for a in audits
    ]  # fmt: skip
    said = "Likelihoods are the teacher's, in nats per token of the student's and of its own answers."
    parts = [page.section("The audit", said, f'<div class="wide">{page.table(heads, rows)}</div>')]
    parts += [_worst(a) for a in audits]
    return page.page(str(audits[0]["name"]), "Stillhouse · audited by its teacher", lead, parts)


def _nats(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")


def _worst(audit: Mapping[str, Any]) -> str:
    if not audit["worst"]:
        return ""
    rows = [
        [page.cell(w["request"], "q"), page.cell(w["student"] or "(nothing)", of="Student"),
         page.cell(w["teacher"] or "(nothing)", of="Teacher"), page.cell(f"{w['short']:.2f}", "n", "Short, nats")]
        for w in audit["worst"]
    ]  # fmt: skip
    title = f"Worst answers: {audit['domain']}" if audit["domain"] else "Worst answers"
    return page.section(title, "Furthest from what the teacher would say, per token.",
                        page.table(["Request", "Student", "Teacher", ">Short, nats"], rows))  # fmt: skip
