"""Stability: whether the behaviour with passages holds when a tenth of the corpus is gone.

In: a corpus. A tenth of it is removed in three ways (`gating/grounded/perturbation.py`). After each, the questions are
asked, labelled and measured again. Out: the largest fall of citation precision, citation recall or abstention F1. A
student that was fitted to one arrangement of one corpus falls. So does one whose answers depend on a few passages.

It does not know why a value fell: evidence that is gone changes labels too. A measure that can no longer be taken
counts as 0; one that could not be taken before does not count. A trace has one corpus, so the gate does not apply to
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gating.context import Context
from ..gating.grounded.perturbation import removals
from ..gating.grounded.responses import ResponseRecord
from ..gating.measure import DoesNotApply, Measure
from ..gating.stats import resampled
from ..records import Candidate, GateResult
from . import citation_recall
from .refusal import f1

MEASURE = Measure(
    __name__, "largest fall of citations or abstention when a tenth of the corpus is removed", "fraction",
    at_least=False, remedy="Train with passages drawn anew each time; say what matters in more than one source.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `stability`."""

    threshold: float = 0.1
    """Largest fall of a measure, a fraction from 0 to 1. A starting value, not calibrated."""
    share: float = 0.1
    """Share of the passages that each way removes, more than 0 and less than 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult | DoesNotApply:
    """Largest fall; n = questions; paired bootstrap over questions. `details["falls"]` has a row for each way and
    measure.
    """
    if ctx.trace is not None:
        return DoesNotApply("the responses are from a trace, and cannot be asked for again")
    before = ctx.grounded_responses()
    if before is None or ctx.corpus is None:
        return DoesNotApply("no corpus to remove passages from was given")
    cited = Counter(c.passage for r in before for c in r.citations if c.passage)
    ways = removals(ctx.corpus.passages, cited, config.share)
    rows: list[dict[str, Any]] = []
    worst: tuple[float, tuple[float, float] | None] = (float("-inf"), None)
    for way, removed in ways.items():
        after = ctx.grounded_responses(ctx.corpus.without(removed)) or []
        for name, statistic in STATISTICS.items():
            old, new = (_value(statistic, responses) for responses in (before, after))
            if old is None:
                continue
            rows.append({"removed": way, "passages": len(removed), "measure": name, "before": old, "after": new})
            fall = old - (new or 0.0)
            if fall > worst[0]:
                worst = (fall, _interval(statistic, before, after))
    if not rows:
        return MEASURE.result(None, config.threshold, 0, note="nothing was measured with the whole corpus")
    note = f"removed {', '.join(ways)}"
    return MEASURE.result(worst[0], config.threshold, len(before), worst[1], note, {"falls": rows})


def _precision(responses: Sequence[ResponseRecord]) -> Tensor:
    return torch.tensor([[sum(c.valid for c in r.citations), len(r.citations)] for r in responses]).double()


def _recall(responses: Sequence[ResponseRecord]) -> Tensor:
    rows = [
        [citation_recall.hits(r), citation_recall.needed(r)] if r.label == "resolved" else [0.0, 0.0] for r in responses
    ]
    return torch.tensor(rows).double()


def _abstention(responses: Sequence[ResponseRecord]) -> Tensor:
    return torch.tensor([[r.refused, r.expected] for r in responses]).double()


def _ratio(counts_DN2: Tensor) -> Tensor:
    return counts_DN2[..., 0].sum(-1) / counts_DN2[..., 1].sum(-1)


def _f1(marks_DN2: Tensor) -> Tensor:
    return f1(marks_DN2[..., 0], marks_DN2[..., 1])


@dataclass(frozen=True)
class _Statistic:
    """A measure, in a form that can be resampled over questions."""

    rows: Callable[[Sequence[ResponseRecord]], Tensor]  # rows_N2: two numbers per response
    of: Callable[[Tensor], Tensor]  # the measure of any choice of rows, rows_DN2 -> value_D


STATISTICS = {
    "citation precision": _Statistic(_precision, _ratio),
    "citation recall": _Statistic(_recall, _ratio),
    "abstention": _Statistic(_abstention, _f1),
}


def _value(statistic: _Statistic, responses: Sequence[ResponseRecord]) -> float | None:
    value = float(statistic.of(statistic.rows(responses)))
    return value if value == value else None


def _interval(
    statistic: _Statistic, before: Sequence[ResponseRecord], after: Sequence[ResponseRecord]
) -> tuple[float, float]:
    """Interval of before minus after, with the same questions drawn for both. What cannot be measured afterwards is
    0."""
    old_N2, new_N2 = statistic.rows(before), statistic.rows(after)
    return resampled(
        lambda at_DN: statistic.of(old_N2[at_DN]) - statistic.of(new_N2[at_DN]).nan_to_num(0.0), len(before)
    )
