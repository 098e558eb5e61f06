"""The teacher as auditor of a student: what the student answers to requests, and what the teacher thinks of it.

In: a teacher, a student (with the adapter of a domain, where it has one), requests. Out: for every request both
answers, the teacher's mean log-likelihood of either per token, and how many of the student's tokens are its own first
choice; the summary, the worst ones first; and corrections: the teacher's answers where the student's are not what it
would say, as rows of a data set that the recipe takes in.

It does not know how the student was trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import as_dict
from ..lora import AdapterBank
from ..models import Model
from ..records import digest
from ..signals.columns import DEEPEST
from ..storage.files import write_atomic
from ..teachers.examples import Example, TokenizedExample, end, rendered
from ..teachers.local import Teacher
from ..teachers.settings import Config as Capture
from ..text.answers import same_answer
from .evaluate import answer

WORST = 12  # shown in a report


@dataclass(frozen=True)
class Finding:
    """One request. Likelihoods are the teacher's, in nats per token, the end of the answer included; `first` is the
    share of the student's tokens that are its first choice."""

    request: str
    student: str
    teacher: str
    likelihood: float
    own: float
    first: float
    same: bool

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


@dataclass(frozen=True)
class Auditor:
    """A teacher who reads `system` before every request; answers have at most `most` tokens."""

    teacher: Teacher
    system: str
    most: int

    def audit(self, student: Model, requests: Sequence[Example], bank: AdapterBank | None, slot: int) -> list[Finding]:
        """Both answer; the teacher judges. `requests` in their domain's style."""
        words = self.teacher.text_model
        prompts = [rendered(words, r, self.system) for r in requests]
        theirs = [a.text for a in answer(student, requests, self.most, bank, slot)]
        ours = [text.strip() for text in self.teacher.replies(prompts, self.most)]
        judged = [judge(self.teacher, prompts, [self._ids(text) for text in side]) for side in (theirs, ours)]
        return [
            Finding(asked(r), t, o, seen, own, first, same_answer(t, o))
            for r, t, o, (seen, first), (own, _) in zip(requests, theirs, ours, *judged, strict=True)
        ]

    def _ids(self, text: str) -> list[int]:
        """An answer in the teacher's tokens, with its end unless only the limit ended it."""
        ids = self.teacher.text_model.text_ids(text)
        return [*ids, *(end(self.teacher.text_model) if len(ids) < self.most else [])]


def judge(teacher: Teacher, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[tuple[float, float]]:
    """Of every answer, in the teacher's tokens: mean log-likelihood per token, in nats, and the share of tokens that
    are the teacher's first choice."""
    spoken = [
        TokenizedExample(tuple(p), tuple(p), tuple(a), str(i))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
        if a
    ]
    said = teacher.signals(spoken, [], Capture(top_k=1, draws=0, keep=0.0), digest([prompts, answers]))
    found = [(-DEEPEST, 0.0)] * len(prompts)
    targets, first = said.targets, np.cumsum(said.targets.count_P) - said.targets.count_P
    ends = np.cumsum(said.counts_N)
    for one, stop, n in zip(said.examples, ends.tolist(), said.counts_N.tolist(), strict=True):
        here = slice(stop - n, stop)
        likely = np.maximum(targets.actual_P[here].astype(np.float64), -DEEPEST)
        chosen = targets.ids[first[here]] == np.array(one.answer)
        found[int(one.request)] = (float(likely.mean()), float(chosen.mean()))
    return found


def asked(request: Example) -> str:
    """What was asked, in short."""
    return request.messages[-1]["content"] if request.messages else request.text


def corrections(requests: Sequence[Example], findings: Sequence[Finding], margin: float) -> list[dict[str, Any]]:
    """Rows `{prompt, completion, …}` for requests whose answer is `margin` nats per token less likely to the teacher
    than its own; `requests` as people ask them, without a domain's style."""
    return [
        {
            "prompt": list(r.messages) or r.text,
            "completion": f.teacher,
            "student": f.student,
            "short": round(f.short, 4),
        }
        for r, f in zip(requests, findings, strict=True)
        if f.teacher.strip() and not f.same and f.short > margin
    ]


def add(file: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Put rows whose prompt is not there yet at the end of a JSON Lines file, all or none. Returns how many."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    there = {json.dumps(json.loads(line)["prompt"], sort_keys=True) for line in before.splitlines() if line.strip()}
    new = {}
    for row in rows:
        key = json.dumps(row["prompt"], sort_keys=True)
        if key not in there:
            new[key] = json.dumps(row, ensure_ascii=False) + "\n"
    if new:
        end = "" if before.endswith("\n") or not before else "\n"
        write_atomic(file, (before + end + "".join(new.values())).encode())
    return len(new)
