"""Entropy drop: whether the student is surer than its base on text that has nothing to do with the memory.

In: held-out running text. Out: mean entropy of the base's next-token distribution minus the student's, in nats per
token. Above zero the student is surer. A distribution that collapses shows here before it shows in the perplexity.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import bootstrap, ratio
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "entropy lost on unrelated text", "nats per token", at_least=False,
    remedy="Raise train.curvature_weight (base KL), or train fewer steps.",
    tries=("anchors", "constraints"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `entropy`."""

    threshold: float = 0.15
    """Largest mean drop of entropy, in nats per token. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Base minus student, nats per token; n = passages; paired bootstrap over passages."""
    comparisons = ctx.passage_comparisons(ctx.slot)
    if not comparisons:
        return MEASURE.result(None, config.threshold, 0, note="there is no held-out text")
    tokens = [c.tokens for c in comparisons]
    drops = [c.base_entropy - c.student_entropy for c in comparisons]
    details = {
        "base entropy": ratio([c.base_entropy for c in comparisons], tokens),
        "student entropy": ratio([c.student_entropy for c in comparisons], tokens),
    }
    return MEASURE.result(
        ratio(drops, tokens), config.threshold, len(comparisons), bootstrap(drops, tokens), details=details
    )
