"""The result of a gate on one axis of geometry: how far the student's hidden states have moved from its base's.

In: what base and student make of held-out passages. Out: the largest change of the passages' mean, over the layers
looked at, with a paired bootstrap over passages, in which the layer that counts may be another one each time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..records import GateResult
from .context import Context
from .measure import Measure
from .passages import LAYERS, Axes, Moved, by_layer
from .stats import resampled


def largest_change(
    measure: Measure,
    threshold: float,
    ctx: Context,
    pick: Callable[[Axes], tuple[float | None, ...]],
    pick_layer: Callable[[Moved], float | None],
) -> GateResult:
    """|mean over passages of student - base|, in cosine, of the layer where it is largest; n = passages."""
    scores = ctx.passages(ctx.slot)
    seen = [(b, s) for b, s in ((pick(p.base_axes), pick(p.student_axes)) for p in scores) if None not in (*b, *s)]
    if not seen:
        return measure.result(None, threshold, 0, note="no held-out text with two sentences in a passage")
    base_LN, student_LN = (torch.tensor(side, dtype=torch.float64).T for side in zip(*seen, strict=True))
    change_LN = student_LN - base_LN
    interval = resampled(lambda at_DN: change_LN[:, at_DN].mean(-1).abs().amax(0), len(seen))
    value = float(change_LN.mean(1).abs().max())
    layers = {
        name: {"base": float(base_N.mean()), "change": float(change_N.mean())}
        for name, base_N, change_N in zip(LAYERS, base_LN, change_LN, strict=True)
    }
    note = ", ".join(f"{name} layer {about['change']:+.4f}" for name, about in layers.items())
    every = {"what": "change", "unit": measure.unit, "values": by_layer(scores, pick_layer)}
    details = {"layers": layers, "by_layer": every}
    return measure.result(value, threshold, len(seen), interval, note, details)
