"""Finished specialists, ready to answer: each request by the one it is for, or by the teacher.

In: a run whose students are trained, requests as people ask them. Out: answers, with who gave them and how sure the
router was. What the teacher had to answer is training data for the next run. It does not know how they were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..generate import Sampling, generate
from ..lora import AdapterBank
from ..models import Model
from ..teachers.examples import Example, rendered
from ..teachers.local import Teacher
from . import router
from .audit import add
from .data import Data

TEACHER = "teacher"


@dataclass(frozen=True)
class Answered:
    """`by`: the domain of a specialist, or "teacher"; `nearest`: the domain that the request is most like."""

    text: str
    by: str
    nearest: str
    confidence: float


@dataclass
class Specialists:
    """One base with a specialist per domain, their router, and the teacher behind them."""

    base: Model
    bank: AdapterBank
    router: router.Router
    domains: tuple[tuple[str, Data], ...]
    teacher: Teacher
    max_new_tokens: int
    system: str = ""  # what the teacher reads where a domain does not say

    def answer(self, requests: Sequence[Example]) -> list[Answered]:
        """Every request answered; all specialists in one batch, each row with its own adapter."""
        if not requests:
            return []
        routes = self.router.route(router.hidden(self.base, requests))
        data, slots = dict(self.domains), {name: slot for slot, (name, _) in enumerate(self.domains)}
        texts = [""] * len(requests)
        ours = [i for i, r in enumerate(routes) if r.domain is not None]
        styled = [data[routes[i].nearest].style(requests[i]) for i in ours]
        prompts = [self.base.chat_ids(e.messages) if e.messages else self.base.text_ids(e.text) for e in styled]
        chosen = [slots[routes[i].nearest] for i in ours]
        replies = generate(self.base, prompts, Sampling(self.max_new_tokens), bank=self.bank, slots=chosen)
        others = [i for i, r in enumerate(routes) if r.domain is None]
        asked = [self._asked(data[routes[i].nearest], requests[i]) for i in others]
        for i, ids in zip(ours, replies, strict=True):
            texts[i] = self.base.text(ids)
        for i, said in zip(others, self.teacher.replies(asked, self.max_new_tokens) if others else [], strict=True):
            texts[i] = said
        return [
            Answered(text, r.domain or TEACHER, r.nearest, r.confidence) for text, r in zip(texts, routes, strict=True)
        ]

    def keep(self, requests: Sequence[Example], answers: Sequence[Answered], folder: Path) -> int:
        """Put what the teacher had to answer into the `corrections` files, relative to `folder`, of the domains that
        the requests are most like. Returns how many rows are new."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for request, said in zip(requests, answers, strict=True):
            file = dict(self.domains)[said.nearest].corrections
            if said.by == TEACHER and file and said.text.strip():
                rows.setdefault(file, []).append(
                    {"prompt": list(request.messages) or request.text, "completion": said.text}
                )
        return sum(add(folder / file, new) for file, new in rows.items())

    def _asked(self, data: Data, request: Example) -> list[int]:
        """What the teacher reads of a request: in the domain's style, after the system message that is its own."""
        return rendered(
            self.teacher.text_model, data.style(request), getattr(data, "teacher_system", "") or self.system
        )

    def close(self) -> None:
        """Take the specialists off the base."""
        self.bank.detach()
