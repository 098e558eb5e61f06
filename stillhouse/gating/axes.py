"""The result of a gate on one axis of geometry: how far the student's hidden states are from its base's.

In: base and student compared on held-out passages. Out: the change of the mean over passages, of the layer where it is
largest. The interval is a paired bootstrap over passages; each draw takes its own largest layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..records import GateResult
from .context import Context
from .measure import Measure
from .passages import LAYERS, LayerShift, PassageGeometry, by_layer
from .stats import resampled


def largest_change(
    measure: Measure,
    threshold: float,
    ctx: Context,
    pick: Callable[[PassageGeometry], tuple[float | None, ...]],
    pick_layer: Callable[[LayerShift], float | None],
) -> GateResult:
    """|mean over passages of student - base|, in cosine, of the layer where it is largest; n = passages.

    `pick` and `pick_layer` choose the axis from a passage's geometry and from a layer's shift.
    """
    comparisons = ctx.passage_comparisons(ctx.slot)
    sides = [(pick(c.base_geometry), pick(c.student_geometry)) for c in comparisons]
    complete = [(base, student) for base, student in sides if None not in (*base, *student)]
    if not complete:
        return measure.result(None, threshold, 0, note="no held-out text with two sentences in a passage")
    base_LN, student_LN = (torch.tensor(side, dtype=torch.float64).T for side in zip(*complete, strict=True))
    change_LN = student_LN - base_LN
    interval = resampled(lambda at_DN: change_LN[:, at_DN].mean(-1).abs().amax(0), len(complete))
    value = float(change_LN.mean(1).abs().max())
    layers = {
        name: {"base": float(base_N.mean()), "change": float(change_N.mean())}
        for name, base_N, change_N in zip(LAYERS, base_LN, change_LN, strict=True)
    }
    note = ", ".join(f"{name} layer {means['change']:+.4f}" for name, means in layers.items())
    every_layer = {"what": "change", "unit": measure.unit, "values": by_layer(comparisons, pick_layer)}
    details = {"layers": layers, "by_layer": every_layer}
    return measure.result(value, threshold, len(complete), interval, note, details)
