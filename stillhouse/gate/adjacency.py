"""Adjacency axis, C2: whether neighbours in the text are still neighbours in the student as they are in its base.

In: hidden states of base and student along held-out text, in the middle and the last layer. Out: the change of C2, of
the layer where it is larger. C2 is the mean cosine of neighbouring tokens minus that of all pairs of tokens in the
passage (`gating/geometry.py`). It goes to 0 when all states collapse into one direction.
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
    return largest_change(
        MEASURE, config.threshold, ctx, lambda passage: passage.adjacency, lambda layer: layer.adjacency
    )
