"""What a gate measures, and how a number becomes a `GateResult`.

In: a value, a threshold, how many things were measured, an interval. Out: the result, with the decision. The decision
is taken on the value itself: with the ten or twenty questions a memory gives, a 95 % interval around a perfect score
reaches below every useful threshold, so the interval is reported and the note says when it crosses the threshold.

It does not know where thresholds come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.records import GateResult

Unit = Literal["fraction", "nats per token"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Measure:
    """The fixed side of one gate. `module` is the `__name__` of the gate's file, which names the gate."""

    module: str
    about: str  # what the value is, as half a sentence for a reader of the report
    unit: Unit
    at_least: bool  # True: value must be >= threshold; False: <=

    @property
    def gate(self) -> str:
        return self.module.rpartition(".")[2]

    def result(
        self,
        value: float | None,
        threshold: float,
        n: int,
        interval: Interval | None = None,
        note: str = "",
        details: dict[str, Any] | None = None,
    ) -> GateResult:
        """The decision on `value`. `n` 0 or a value that is not finite gives `value=None`, which never passes."""
        if n == 0 or value is None:
            return self._without_value(threshold, n, f"nothing to measure: {note}", details)
        if not math.isfinite(value):
            return self._without_value(threshold, n, f"the measure is {value}, which is not a number", details)
        passed = value >= threshold if self.at_least else value <= threshold
        bounds = interval if interval and all(math.isfinite(b) for b in interval) else None
        if bounds and min(bounds) < threshold < max(bounds):
            crossing = "decided on the value, its interval crosses the threshold"
            note = f"{note}; {crossing}" if note else crossing
        about = {"about": self.about, "unit": self.unit, **(details or {})}
        return GateResult(self.gate, float(value), threshold, self.at_least, passed, n, bounds, note, about)

    def broken(self, threshold: float, why: str) -> GateResult:
        """The result of a gate that met numbers which are none."""
        return self._without_value(threshold, 0, why, None)

    def _without_value(self, threshold: float, n: int, note: str, details: dict[str, Any] | None) -> GateResult:
        about = {"about": self.about, "unit": self.unit, **(details or {})}
        return GateResult(self.gate, None, threshold, self.at_least, False, n, None, note, about)
