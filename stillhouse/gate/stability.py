"""Stability: whether the behaviour with passages holds when a tenth of the corpus is gone.

In: a corpus. Out: the largest fall of citation precision, citation recall or abstention F1 over three ways of removing
a tenth of it (`gating/grounded/perturbation.py`), each asked, labelled and measured again. A student that was fitted to
one arrangement of one corpus falls; so does one whose answers hang on a few passages that everything cites.

It does not know why a value fell: evidence that is gone changes labels too. What cannot be measured any more has
fallen to 0; what could not be measured before does not count. A trace holds one corpus, so it says nothing here.
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
from ..gating.grounded.responses import Response
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
    """Largest fall; n = questions; paired bootstrap over questions. `details["falls"]`: each way and measure."""
    if ctx.trace is not None:
        return DoesNotApply("the responses are from a trace, and cannot be asked for again")
    before = ctx.grounded()
    if before is None or ctx.corpus is None:
        return DoesNotApply("no corpus to remove passages from was given")
    cited = Counter(c.passage for r in before for c in r.citations if c.passage)
    ways = removals(ctx.corpus.passages, cited, config.share)
    rows: list[dict[str, Any]] = []
    worst: tuple[float, tuple[float, float] | None] = (float("-inf"), None)
    for way, gone in ways.items():
        after = ctx.grounded(ctx.corpus.without(gone)) or []
        for name, statistic in STATISTICS.items():
            was, now = (_value(statistic, responses) for responses in (before, after))
            if was is None:
                continue
            rows.append({"removed": way, "passages": len(gone), "measure": name, "before": was, "after": now})
            fall = was - (now or 0.0)
            if fall > worst[0]:
                worst = (fall, _interval(statistic, before, after))
    if not rows:
        return MEASURE.result(None, config.threshold, 0, note="nothing was measured with the whole corpus")
    note = f"removed {', '.join(ways)}"
    return MEASURE.result(worst[0], config.threshold, len(before), worst[1], note, {"falls": rows})


def _precision(responses: Sequence[Response]) -> Tensor:
    return torch.tensor([[sum(c.valid for c in r.citations), len(r.citations)] for r in responses]).double()


def _recall(responses: Sequence[Response]) -> Tensor:
    rows = [
        [citation_recall.hits(r), citation_recall.needed(r)] if r.label == "resolved" else [0.0, 0.0] for r in responses
    ]
    return torch.tensor(rows).double()


def _abstention(responses: Sequence[Response]) -> Tensor:
    return torch.tensor([[r.refused, r.expected] for r in responses]).double()


def _ratio(counts_DN2: Tensor) -> Tensor:
    return counts_DN2[..., 0].sum(-1) / counts_DN2[..., 1].sum(-1)


def _f1(marks_DN2: Tensor) -> Tensor:
    return f1(marks_DN2[..., 0], marks_DN2[..., 1])


@dataclass(frozen=True)
class _Statistic:
    """`rows`: two numbers per response; `of`: the measure of any choice of them along the last but one axis."""

    rows: Callable[[Sequence[Response]], Tensor]
    of: Callable[[Tensor], Tensor]


STATISTICS = {
    "citation precision": _Statistic(_precision, _ratio),
    "citation recall": _Statistic(_recall, _ratio),
    "abstention": _Statistic(_abstention, _f1),
}


def _value(statistic: _Statistic, responses: Sequence[Response]) -> float | None:
    value = float(statistic.of(statistic.rows(responses)))
    return value if value == value else None


def _interval(statistic: _Statistic, before: Sequence[Response], after: Sequence[Response]) -> tuple[float, float]:
    """Of before - after, drawing the same questions for both; what cannot be measured afterwards is 0."""
    was_N2, now_N2 = statistic.rows(before), statistic.rows(after)
    return resampled(
        lambda at_DN: statistic.of(was_N2[at_DN]) - statistic.of(now_N2[at_DN]).nan_to_num(0.0), len(before)
    )
