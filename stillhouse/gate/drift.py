"""Drift: how far the student has moved from its base on text that has nothing to do with the memory.

In: held-out running text. Out: mean KL(base || student) in nats per predicted token, over the whole vocabulary. In this
direction it is large where the base considers a token possible and the student no longer does.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.passages import by_layer
from ..gating.stats import bootstrap, ratio
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "KL from the base on unrelated text", "nats per token", at_least=False,
    remedy="Raise train.curvature_weight (base KL) or train.anchor_rows, or train fewer steps.",
    tries=("anchors", "constraints"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `drift`."""

    threshold: float = 0.1
    """Largest mean divergence, in nats per token, 0 or more. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """Nats per token; n = passages; bootstrap over passages. `details["passages"]` has the nats per token of each."""
    comparisons = ctx.passage_comparisons(ctx.slot)
    if not comparisons:
        return MEASURE.result(None, config.threshold, 0, note="there is no held-out text")
    sums, tokens = [c.kl for c in comparisons], [c.tokens for c in comparisons]
    distances = by_layer(comparisons, lambda layer: layer.distance)
    details = {
        "passages": [c.kl / c.tokens for c in comparisons],
        "by_layer": {"what": "distance of hidden states from the base’s", "unit": "cosine", "values": distances},
        "tokens": sum(tokens),
    }
    return MEASURE.result(
        ratio(sums, tokens), config.threshold, len(comparisons), bootstrap(sums, tokens), details=details
    )
