"""What comes of one user's memory, for people and for machines, and what is written beside an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import gating
from ..gating import AnswerComparison
from ..records import Candidate, GateResult, Question, Study, Verdict, Version


@dataclass(frozen=True)
class Try:
    """One candidate on the way to an approved one."""

    remedy: str
    """Its name; empty for the first candidate, which has the settings asked for."""
    about: str
    """What the remedy changes, for people."""
    changes: dict[str, Any]
    """Settings that differ from those of the best try before it: `stage.key: [before, after]`."""
    version: int
    """Number of the candidate's version; 0 in the report of that version itself."""
    approved: bool
    failed: tuple[str, ...]
    """Names of the gates that refused it."""

    def line(self) -> str:
        """For people: what was tried and what came of it."""
        what = ", ".join(f"{key} {old:g} -> {new:g}" for key, (old, new) in self.changes.items()) or self.about
        outcome = "approved" if self.approved else f"refused by {', '.join(self.failed) or 'no gate that applies'}"
        return f"v{self.version}  {self.remedy or 'as asked for':<12} {outcome}  ({what})"


@dataclass(frozen=True)
class Consolidation:
    """What came of one user's memory."""

    user: str
    version: Version
    folder: Path
    """The version's folder, as PEFT loads it."""
    verdict: Verdict
    study: Study
    samples: tuple[AnswerComparison, ...]
    """Answers side by side: base, teacher and student."""
    memory_tokens: int
    """Length of the memory in the base's tokens."""
    tokens_saved: int
    """Prompt tokens of a request with the memory in its context, minus those of one without."""
    seconds: Mapping[str, float]
    """What each stage took; almost nothing where it was done before."""
    tries: tuple[Try, ...] = ()
    """With `diagnose`: every candidate on the way, this one among them."""

    @property
    def approved(self) -> bool:
        return self.version.approved

    @property
    def failed(self) -> list[str]:
        """Names of the gates that refused it."""
        return [r.gate for r in self.verdict.results if not r.passed]

    @property
    def uncovered(self) -> list[str]:
        """Statements without three trained wordings and a reverse question, orders to the model aside."""
        return [s.text for s in self.study.statements if not s.instruction and not self.study.covered(s.index)]

    @property
    def coverage(self) -> float:
        """Share of the statements that are covered."""
        targets = sum(not s.instruction for s in self.study.statements)
        return 1 - len(self.uncovered) / targets if targets else 0.0

    def value(self, gate_name: str) -> float | None:
        """What one gate measured."""
        return next((r.value for r in self.verdict.results if r.gate == gate_name), None)

    def as_dict(self) -> dict[str, Any]:
        """For machines: everything but the study's questions."""
        return {
            "user": self.user,
            "version": self.version.number,
            "approved": self.approved,
            "failed": self.failed,
            "gates": {r.gate: r.value for r in self.verdict.results},
            "coverage": self.coverage,
            "uncovered": self.uncovered,
            "memory_tokens": self.memory_tokens,
            "tokens_saved": self.tokens_saved,
            "folder": str(self.folder),
            "report": str(self.folder / "gate_report.html"),
            "base": self.version.base,
            "candidate": self.version.candidate,
            "seconds": {stage: round(took, 2) for stage, took in self.seconds.items()},
            **({"tries": [asdict(t) for t in self.tries]} if self.tries else {}),
        }

    def summary(self) -> str:
        """For people: the verdict, each gate, what is not covered, where the report is."""
        head = f"{self.user} v{self.version.number}: {'approved' if self.approved else 'REJECTED'}"
        gates = [line for r in self.verdict.results for line in _gate_lines(r)]
        rest = [f"  coverage {self.coverage:.0%}, {self.tokens_saved} prompt tokens saved per request"]
        rest += [f"  not covered: {text}" for text in self.uncovered]
        if not self.verdict.config.get("calibrated_by"):
            rest.append("  thresholds are where gates start; `stillhouse calibrate` measures this base's own")
        rest += [f"  tried {t.line()}" for t in self.tries[:1] if len(self.tries) > 1]
        rest += [f"   then {t.line()}" for t in self.tries[1:]]
        return "\n".join([head, *gates, *rest, f"  report: {self.folder / 'gate_report.html'}"])


def _gate_lines(result: GateResult) -> list[str]:
    """One gate for people; below a failed one, what to change."""
    value = "-" if result.value is None else format(result.value, ".4g")
    bound = f"{'>=' if result.at_least else '<='} {result.threshold:g}, n={result.n}"
    line = f"  {'pass' if result.passed else 'FAIL'} {result.gate:<12} {value:>8} ({bound})"
    remedy = "" if result.passed else result.details.get("remedy", "")
    return [line, *([f"       {remedy}"] if remedy else [])]


def samples(ctx: gating.Context, facts: int = 12, unknowns: int = 4) -> list[AnswerComparison]:
    """Answers side by side: a question per statement that was never trained on, then some the memory cannot answer.

    None where the student's logits are not numbers: the verdict says so.
    """
    by_statement: dict[int | None, list[Question]] = {}
    for q in ctx.study.questions:
        if q.direction in ("forward", "cloze"):
            by_statement.setdefault(q.statement, []).append(q)
    chosen = [min(qs, key=lambda q: q.use == "train") for qs in by_statement.values()][:facts]
    chosen += [q for q in ctx.study.questions if q.direction == "unknown" and q.use == "held_out"][:unknowns]
    texts = [q.text for q in chosen]
    try:
        base, student = ctx.answers(texts, -1), ctx.answers(texts, ctx.slot)
    except FloatingPointError:
        return []
    return [AnswerComparison(q.text, b, q.teacher, s, q.answer) for q, b, s in zip(chosen, base, student, strict=True)]


def model_card(candidate: Candidate, verdict: Verdict) -> str:
    """A README in the hub's form, so that tools that look for the base model find it."""
    base = candidate.adapter_config["base_model_name_or_path"]
    rows = "\n".join(
        f"| {r.gate} | {'-' if r.value is None else f'{r.value:.4g}'} | {'>=' if r.at_least else '<='} {r.threshold:g} "
        f"| {'pass' if r.passed else 'fail'} |"
        for r in verdict.results
    )
    return (
        f"---\nbase_model: {json.dumps(base)}\nbase_model_relation: adapter\nlibrary_name: peft\n---\n\n"
        f"A private memory adapter (LoRA, rank {candidate.config['rank']}, {candidate.steps} steps). "
        f"Verdict: {'approved' if verdict.passed else 'rejected'}.\n\n"
        f"| gate | value | threshold | |\n|---|---|---|---|\n{rows}\n"
    )
