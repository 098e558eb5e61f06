"""Routing agreement: how often student and base send a token to the same experts.

In: the experts that every layer's router chose, along held-out text or along the answers of a trace. They are compared
as sets: order and weight do not count. Out: the share of (token, layer) pairs with equal sets. A student whose tokens
go to other experts is another model than its base.

It applies to mixtures of experts alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import mean

from ..gating.context import Context
from ..gating.grounded.trace import Trace
from ..gating.measure import DoesNotApply, Measure
from ..gating.stats import bootstrap, ratio
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "tokens sent to the same experts as in the base", "fraction", at_least=True,
    remedy="Train without the experts (train.experts = false), or raise train.curvature_weight (base KL).",
    tries=("anchors", "routing"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `routing`."""

    threshold: float = 0.85
    """Least share of (token, layer) pairs with equal sets of experts, from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult | DoesNotApply:
    """Share of (token, layer) pairs; n = passages, or answers of a trace; bootstrap over them. `details["layers"]` has
    the share of each layer."""
    if ctx.trace is not None:
        return _recorded(ctx.trace, config)
    comparisons = ctx.passage_comparisons(ctx.slot)
    if not comparisons:
        return MEASURE.result(None, config.threshold, 0, note="there is no held-out text")
    depth = len(comparisons[0].same_experts)
    if not depth:
        return DoesNotApply("the model has no router that can be watched")
    same = [float(sum(c.same_experts)) for c in comparisons]
    pairs = [float(c.routed * depth) for c in comparisons]
    tokens = sum(c.routed for c in comparisons)
    layers = [sum(c.same_experts[layer] for c in comparisons) / tokens for layer in range(depth)]
    value, interval = ratio(same, pairs), bootstrap(same, pairs)
    return MEASURE.result(value, config.threshold, len(comparisons), interval, details={"layers": layers})


def _recorded(trace: Trace, config: Config) -> GateResult | DoesNotApply:
    """The same, over the answers of a trace."""
    if not trace.layers:
        return DoesNotApply("the trace has no routing: its model has no router that can be watched")
    same: Counter[str] = Counter()
    for layer in trace.layers:
        same[layer.prompt_id] += layer.base == layer.student
    pairs = Counter(layer.prompt_id for layer in trace.layers)
    sums, counts = [float(same[p]) for p in pairs], [float(n) for n in pairs.values()]
    depth = sorted({layer.layer_idx for layer in trace.layers})
    layers = [mean([x.base == x.student for x in trace.layers if x.layer_idx == d]) for d in depth]
    return MEASURE.result(
        ratio(sums, counts), config.threshold, len(pairs), bootstrap(sums, counts), details={"layers": layers}
    )
