"""Regression: whether the student predicts ordinary text worse than its base does.

In: held-out running text. Out: the student's perplexity over the base's, minus 1. Below zero the student predicts the
text better.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import bootstrap, ratio
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "rise of perplexity on unrelated text", "fraction", at_least=False,
    remedy="Raise train.curvature_weight (base KL), or train fewer steps.",
    tries=("anchors", "constraints"),
)  # fmt: skip
OVERFLOW = 700.0  # exp of more is not a float


@dataclass(frozen=True)
class Config:
    """Settings of the gate `regression`."""

    threshold: float = 0.02
    """Largest rise of perplexity, as a fraction of the base's; 0.02 is 2 %. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Ratio of perplexities minus 1; n = passages; bootstrap over passages."""
    comparisons = ctx.passage_comparisons(ctx.slot)
    if not comparisons:
        return MEASURE.result(None, config.threshold, 0, note="there is no held-out text")
    tokens = [c.tokens for c in comparisons]
    rises = [c.student_nll - c.base_nll for c in comparisons]
    low, high = bootstrap(rises, tokens)
    details = {
        "base perplexity": _exp(ratio([c.base_nll for c in comparisons], tokens)),
        "student perplexity": _exp(ratio([c.student_nll for c in comparisons], tokens)),
        "tokens": sum(tokens),
    }
    value, interval = _exp(ratio(rises, tokens)) - 1, (_exp(low) - 1, _exp(high) - 1)
    return MEASURE.result(value, config.threshold, len(comparisons), interval, details=details)


def _exp(nats: float) -> float:
    return exp(min(nats, OVERFLOW))
