"""Finished specialists, ready to answer: each request by the one it is for, or by the teacher.

In: the specialists of a trained student, requests as people ask them. Out: answers, with who gave them and how sure the
router was. What the teacher had to answer is training data for the next run. It does not know how they were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..capture.prompts import Example
from ..generate import Sampling, generate
from ..lora import AdapterBank
from ..models import Model
from ..teachers.examples import rendered
from ..teachers.local import Teacher
from .data import add, correction
from .evaluate import prompt_ids
from .recipe import Recipe
from .router import Router, hidden

TEACHER = "teacher"


@dataclass(frozen=True)
class Answered:
    """An answer. `by`: the domain of a specialist, or "teacher"; `nearest`: the domain the request is most like."""

    text: str
    by: str
    nearest: str
    confidence: float


@dataclass(frozen=True)
class Specialists:
    """One base with a specialist per domain of the recipe, their router, and the teacher behind them."""

    base: Model
    bank: AdapterBank
    router: Router
    recipe: Recipe
    teacher: Teacher

    def answer(self, requests: Sequence[Example]) -> list[Answered]:
        """Every request answered; all specialists in one batch, each row with its own adapter."""
        if not requests:
            return []
        routes = self.router.route(hidden(self.base, requests))
        data = dict(self.recipe.domains)
        slots = {name: slot for slot, name in enumerate(data)}
        limit = self.recipe.capture.max_new_tokens
        styled = [data[route.nearest].style(request) for route, request in zip(routes, requests, strict=True)]
        routed = [i for i, route in enumerate(routes) if route.domain is not None]
        prompts, chosen = [prompt_ids(self.base, styled[i]) for i in routed], [slots[routes[i].nearest] for i in routed]
        replies = generate(self.base, prompts, Sampling(limit), bank=self.bank, slots=chosen)
        texts = {i: self.base.text(ids) for i, ids in zip(routed, replies, strict=True)}
        rest = [i for i in range(len(requests)) if i not in texts]
        systems = [self.recipe.capture_of(data[routes[i].nearest]).teacher_system for i in rest]
        asked = [rendered(self.teacher.text_model, styled[i], system) for i, system in zip(rest, systems, strict=True)]
        texts |= dict(zip(rest, self.teacher.replies(asked, limit) if asked else [], strict=True))
        return [Answered(texts[i], r.domain or TEACHER, r.nearest, r.confidence) for i, r in enumerate(routes)]

    def keep(self, requests: Sequence[Example], answers: Sequence[Answered], folder: Path) -> int:
        """Put what the teacher had to answer into the `corrections` files, relative to `folder`, of the domains that
        the requests are most like. Returns how many rows are new."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for request, answered in zip(requests, answers, strict=True):
            file = dict(self.recipe.domains)[answered.nearest].corrections
            if answered.by == TEACHER and file and answered.text.strip():
                rows.setdefault(file, []).append(correction(request, answered.text))
        return sum(add(folder / file, new) for file, new in rows.items())

    def close(self) -> None:
        """Take the specialists off the base."""
        self.bank.detach()
