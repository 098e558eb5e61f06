"""The result of a gate on one axis of geometry: how far the student's hidden states have moved from its base's.

In: what base and student make of held-out passages. Out: the largest change of the passages' mean, over the layers
looked at, with a paired bootstrap over passages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stillhouse.records import GateResult

from ._context import Context
from ._measure import Measure
from ._passages import LAYERS, Axes
from ._stats import resampled


def largest_change(
    measure: Measure, threshold: float, ctx: Context, pick: Callable[[Axes], tuple[float | None, ...]]
) -> GateResult:
    """|mean over passages of student - base|, in cosine, of the layer where it is largest; n = passages."""
    seen = [(pick(p.base_axes), pick(p.student_axes)) for p in ctx.passages(ctx.slot)]
    layers: dict[str, dict[str, Any]] = {}
    worst: tuple[float, list[float]] = (-1.0, [])
    for number, name in enumerate(LAYERS):
        sides = [(bases[number], students[number]) for bases, students in seen]
        pairs = [(b, s) for b, s in sides if b is not None and s is not None]
        if pairs:
            changes = [s - b for b, s in pairs]
            mean = sum(changes) / len(changes)
            layers[name] = {"base": sum(b for b, _ in pairs) / len(pairs), "change": mean}
            worst = max(worst, (abs(mean), changes))
    value, changes = worst
    if not changes:
        return measure.result(None, threshold, 0, note="no held-out text with two sentences in a passage")
    change_N = torch.tensor(changes, dtype=torch.float64)
    interval = resampled(lambda at_DN: change_N[at_DN].mean(1).abs(), len(changes))
    note = ", ".join(f"{name} layer {about['change']:+.4f}" for name, about in layers.items())
    return measure.result(value, threshold, len(changes), interval, note, {"layers": layers})
