"""Adjacency axis, C2: whether neighbours in the text are still neighbours in the student as they are in its base.

In: hidden states of base and student along held-out text, middle and last layer. Out: the larger change of C2, the
cosine of neighbouring tokens minus that of all pairs of the passage (`gating/geometry.py`). States that collapse into
one direction lose it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.axes import largest_change
from ..gating.context import Context
from ..gating.measure import Measure
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "change of how near neighbouring tokens are (C2)", "cosine", at_least=False,
    remedy="Raise train.curvature_weight (base KL), or lower train.rank.",
    tries=("anchors",),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `adjacency`."""

    threshold: float = 0.1
    """Largest change of C2 either way, in cosine, 0 or more. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """|student - base| of C2; n = passages; paired bootstrap over passages."""
    return largest_change(MEASURE, config.threshold, ctx, lambda axes: axes.adjacency, lambda moved: moved.adjacency)
