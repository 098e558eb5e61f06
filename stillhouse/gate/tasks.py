"""Task files of lm-evaluation-harness: whether the student does worse than its base on any metric of any of them.

In: a `Suite` in the context that names task files, or tasks that the harness knows. Out: the worst change from the base
over all tasks and metrics. Where more is better (accuracy, exact match) the change is the difference; where less is
better (perplexity) it is the relative fall. `gating/harness.py` runs the tasks, so the numbers are the harness's own.

It does not apply without such tasks, and refuses a task with a question that was trained on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..gating.context import Context, prompt_digest
from ..gating.measure import DoesNotApply, Measure
from ..gating.stats import bootstrap
from ..records import Candidate, GateResult
from ..runners import BASE
from ..text.prompts import without_memory

if TYPE_CHECKING:
    from ..gating.harness import TaskRun

MEASURE = Measure(
    __name__, "worst change of a metric of lm-evaluation-harness, compared with the base", "fraction", at_least=True,
    remedy="Raise train.curvature_weight, lower train.steps or train.rank.",
    tries=("anchors", "constraints"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `tasks`."""

    threshold: float = -0.02
    """Least change from the base, a fraction; -0.02 allows a loss of 2 %. A starting value, not calibrated."""
    chat: bool = False
    """Whether prompts go through the model's chat template, as with the harness's `--apply_chat_template`. Off, as
    in the harness itself."""


@dataclass(frozen=True)
class MetricChange:
    """One metric of one task, of base and student."""

    task: str
    metric: str
    base: float
    student: float
    better: float  # how much better the student is; below 0 it is worse
    by_document: tuple[float, ...]  # the same by document, where the metric is a mean over documents; else empty
    documents: int


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult | DoesNotApply:
    """The worst change; n = documents of its task; paired bootstrap over them where the metric is their mean.

    Raises `InputError` on trained questions, on unreadable tasks, or without the package `lm-eval`.
    """
    if ctx.suite is None or not ctx.suite.tasks:
        return DoesNotApply("no suite with tasks of lm-evaluation-harness was given")
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(f"{ctx.suite.tasks[0]}: needs lm-evaluation-harness: pip install 'stillhouse[harness]'")
    from ..gating.harness import run_tasks

    base, student = (run_tasks(ctx.runner, slot, ctx.suite.tasks, config.chat) for slot in (BASE, ctx.slot))
    _refuse_trained(base, ctx)
    all_changes = list(changes(base, student))
    if not all_changes:
        return MEASURE.result(None, config.threshold, 0, note="the tasks have no metric with a direction")
    worst = min(all_changes, key=lambda change: change.better)
    interval = bootstrap(worst.by_document) if worst.by_document else None
    note = f"{worst.task}, {worst.metric}: {worst.student:.4f}, base {worst.base:.4f}"
    details = {"tasks": _rows(all_changes)}
    return MEASURE.result(worst.better, config.threshold, worst.documents, interval, note, details)


def changes(base: Sequence[TaskRun], student: Sequence[TaskRun]) -> Iterator[MetricChange]:
    """Every metric of every task, of base and student."""
    for left, right in zip(base, student, strict=True):
        for metric, old in left.metrics.items():
            new, more = right.metrics[metric], left.higher_is_better[metric]
            better = new - old if more else 1 - new / old if old else -new
            sign = 1.0 if more else -1.0
            pairs = zip(left.values.get(metric, ()), right.values.get(metric, ()), strict=True)
            scale = 1.0 if more or not old else old
            by_document = tuple(sign * (n - o) / scale for o, n in pairs)
            yield MetricChange(left.task, metric, old, new, better, by_document, len(left.documents))


def _rows(all_changes: Sequence[MetricChange]) -> list[dict[str, Any]]:
    return [
        {"task": c.task, "metric": c.metric, "base": c.base, "student": c.student, "better": c.better, "n": c.documents}
        for c in all_changes
    ]


def _refuse_trained(runs: Sequence[TaskRun], ctx: Context) -> None:
    """Raises `InputError` where a text of a document was trained on: its result would prove nothing."""
    for run in runs if ctx.trained else ():
        for text in (v for document in run.documents for v in document.values() if isinstance(v, str)):
            if prompt_digest(ctx.model.chat_ids(without_memory(text))) in (ctx.trained or ()):
                raise InputError(
                    f"{run.task}: its text {text!r:.80} was trained on: its result would prove nothing; remove it"
                )
