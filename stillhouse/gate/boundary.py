"""Boundary axis, C1: whether the student still tells sentences apart as its base does.

In: hidden states of base and student along held-out text, in the middle and the last layer. Out: the change of C1, of
the layer where it is larger. C1 is the cosine distance of neighbouring tokens across sentence borders minus that inside
sentences (`gating/geometry.py`).

It does not know which direction of change does harm, so it counts both.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gating.axes import largest_change
from ..gating.context import Context
from ..gating.measure import Measure
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "change of how hidden states separate sentences (C1)", "cosine", at_least=False,
    remedy="Raise train.curvature_weight (base KL), or lower train.rank.",
    tries=("anchors",),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `boundary`."""

    threshold: float = 0.1
    """Largest change of C1 either way, in cosine, 0 or more. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """|student - base| of C1; n = passages with a border inside; paired bootstrap over passages."""
    return largest_change(
        MEASURE, config.threshold, ctx, lambda passage: passage.boundary, lambda layer: layer.boundary
    )
