"""The teacher as auditor of a student: what the student answers to requests, and what the teacher thinks of it.

In: a finished student, and requests: those that are held out, or others. Out: for every request both answers, the
teacher's mean log-likelihood of either per token, and how many of the student's tokens are its own first choice; the
means of these per lesson; and corrections, which go into the lesson's data set. What is held out is judged and never
corrected, because a correction becomes training data.

It does not know how the student was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..capture import prompts
from ..config import as_dict
from ..errors import InputError
from ..lora import AdapterBank
from ..models import Model
from ..records import digest
from ..signals.columns import DEEPEST
from ..teachers.examples import TokenizedExample, end, rendered
from ..teachers.local import Teacher
from ..text.answers import Expected, grade
from . import router
from .data import add, correction, request_text
from .evaluate import answer
from .plan import StudentPlan
from .signals import Lesson, RecipeSignals
from .train import load_student

WORST = 12  # findings that a report shows


@dataclass(frozen=True)
class Finding:
    """One request with both answers. Likelihoods are the teacher's, in nats per token, the answer's end included."""

    request: str
    student: str
    teacher: str
    likelihood: float
    """Of the student's answer."""
    own: float
    """Of the teacher's own answer."""
    first: float
    """The share of the student's tokens that are the teacher's first choice."""
    same: bool
    """Whether the student's answer is right where the teacher's is."""

    @property
    def short(self) -> float:
        """How much less likely, in nats per token, the student's answer is to the teacher than its own."""
        return self.own - self.likelihood


@dataclass(frozen=True)
class Audit:
    """All requests of one student, or of its specialist of one `domain`; `corrected` rows went into its data set."""

    name: str
    domain: str
    findings: tuple[Finding, ...]
    corrected: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: means over requests, and the worst of them first."""
        n = len(self.findings)
        mean = {f: sum(float(getattr(x, f)) for x in self.findings) / n for f in ("same", "first", "likelihood", "own")}
        worst = sorted((x for x in self.findings if not x.same and x.short > 0), key=lambda x: -x.short)[:WORST]
        about = {"name": self.name, "domain": self.domain, "n": n, "corrected": self.corrected}
        return about | mean | {"worst": [as_dict(x) | {"short": x.short} for x in worst]}


def audit_student(
    signals: RecipeSignals, plan: StudentPlan, requests: Sequence[prompts.Example], correct: int, margin: float
) -> list[Audit]:
    """Every lesson of a finished student, on `requests`, or on what is held out where there are none.

    With several domains, a request goes to the lesson that it is most like; a lesson without requests is left out.
    With `correct`, answers to `requests`, or to that many training requests, are corrected where they are `margin` nats
    per token less likely than the teacher's own. `InputError`: nothing to ask, or nowhere to put corrections.
    """
    model, bank = load_student(signals, plan)
    try:
        audits = []
        for slot, (lesson, share) in enumerate(
            zip(signals.lessons, _shares(signals, plan, model, requests), strict=True)
        ):
            if share is None or share:
                judged = partial(_findings, signals, lesson, model, bank, slot)
                findings, rows = _judge_lesson(lesson, share, correct, margin, judged)
                corrected = add(signals.recipe.folder / lesson.data.corrections, rows) if correct else 0
                audits.append(Audit(plan.name, lesson.name, tuple(findings), corrected))
        return audits
    finally:
        if bank:
            bank.detach()


def _shares(
    signals: RecipeSignals, plan: StudentPlan, model: Model, requests: Sequence[prompts.Example]
) -> list[list[prompts.Example] | None]:
    """Which requests are asked in which lesson; None: those that it holds out."""
    if not requests or not signals.recipe.domains:
        return [list(requests) or None] * len(signals.lessons)
    routes = router.load(plan.folder / router.FILE, model).route(router.hidden(model, requests))
    return [
        [request for request, route in zip(requests, routes, strict=True) if route.nearest == lesson.name]
        for lesson in signals.lessons
    ]


def _judge_lesson(
    lesson: Lesson, requests: Sequence[prompts.Example] | None, correct: int, margin: float,
    judged: Callable[[Sequence[prompts.Example]], list[Finding]],
) -> tuple[list[Finding], list[dict[str, Any]]]:  # fmt: skip
    """What the teacher finds, and the rows that correct it."""
    where = f"domains.{lesson.name}" if lesson.name else "data"
    if correct and not lesson.data.corrections:
        raise InputError(f'{where}.corrections: missing; say where they go, for example corrections = "fixed.jsonl"')
    asked = _prompts(lesson.held_out if requests is None else requests)
    if not asked:
        raise InputError(f"{where}: no prompts are held out, only running text; give requests with --prompts FILE")
    findings = judged(asked)
    if not correct or requests is not None:
        return findings, corrections(asked, findings, margin)
    training = _prompts(lesson.train)[:correct]
    return findings, corrections(training, judged(training), margin)


def _prompts(examples: Sequence[prompts.Example]) -> list[prompts.Example]:
    """What is asked, each request once, without the answers that may be given."""
    requests = (prompts.Example(e.messages, e.text) for e in examples if e.messages or e.text)
    return list({repr(request): request for request in requests}.values())


def _findings(
    signals: RecipeSignals, lesson: Lesson, model: Model, bank: AdapterBank | None, slot: int,
    requests: Sequence[prompts.Example],
) -> list[Finding]:  # fmt: skip
    """Both answer the requests in the lesson's style; the teacher judges."""
    if not requests:
        return []
    teacher, config = signals.teacher.teacher, signals.recipe.capture_of(lesson.data)
    words, limit = teacher.text_model, config.max_new_tokens
    styled = [lesson.data.style(request) for request in requests]
    asked = [rendered(words, request, config.teacher_system) for request in styled]
    students = [a.text for a in answer(model, styled, limit, bank, slot)]
    teachers = [text.strip() for text in teacher.replies(asked, limit)]

    def ids(text: str) -> list[int]:
        """An answer in the teacher's tokens, with its end unless only the limit ended it."""
        tokens = words.text_ids(text)
        return [*tokens, *(end(words) if len(tokens) < limit else [])]

    judged = [judge(teacher, asked, [ids(text) for text in texts]) for texts in (students, teachers)]
    return [
        Finding(
            request_text(request),
            student,
            own_text,
            likelihood,
            own,
            first,
            _same(student, own_text, request_text(request)),
        )
        for request, student, own_text, (likelihood, first), (own, _) in zip(
            styled, students, teachers, *judged, strict=True
        )
    ]


def _same(student: str, teacher: str, question: str) -> bool:
    """Whether a student's answer says what its teacher's does."""
    return grade(student, Expected(teacher, question=question)).correct if teacher.strip() else not student.strip()


def judge(teacher: Teacher, asked: Sequence[list[int]], answers: Sequence[list[int]]) -> list[tuple[float, float]]:
    """Of every answer, in the teacher's tokens: mean log-likelihood per token, in nats, and the share of tokens that
    are the teacher's first choice. An empty answer has the lowest likelihood that signals can hold, and no choice."""
    pairs = enumerate(zip(asked, answers, strict=True))
    examples = [TokenizedExample(tuple(p), tuple(p), tuple(a), str(i)) for i, (p, a) in pairs if a]
    config = prompts.Config(top_k=1, draws=0, keep=0.0)
    signals = teacher.signals(examples, [], config, digest([asked, answers]))
    judged = [(-DEEPEST, 0.0)] * len(asked)
    targets = signals.targets
    first_P = np.cumsum(targets.count_P) - targets.count_P
    ends = np.cumsum(signals.counts_N)
    for one, stop, n in zip(signals.examples, ends.tolist(), signals.counts_N.tolist(), strict=True):
        here = slice(stop - n, stop)
        likelihood_T = np.maximum(targets.actual_P[here].astype(np.float64), -DEEPEST)
        chosen_T = targets.ids[first_P[here]] == np.array(one.answer)
        judged[int(one.request)] = (float(likelihood_T.mean()), float(chosen_T.mean()))
    return judged


def corrections(
    requests: Sequence[prompts.Example], findings: Sequence[Finding], margin: float
) -> list[dict[str, Any]]:
    """Rows for requests whose answer is `margin` nats per token less likely to the teacher than its own. `requests` are
    as people ask them, without a domain's style."""
    return [
        correction(request, finding.teacher) | {"student": finding.student, "short": round(finding.short, 4)}
        for request, finding in zip(requests, findings, strict=True)
        if finding.teacher.strip() and not finding.same and finding.short > margin
    ]
