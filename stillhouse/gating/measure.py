"""What a gate measures, and how a number becomes a `GateResult`.

In: a value, a threshold, how many things were measured, an interval. Out: the result with its decision, or
`DoesNotApply` where this model or this study has nothing of the kind.

A calibrated threshold is compared with the interval's bad end, because honest consolidations were measured there too. A
starting threshold is compared with the value itself: a memory gives ten or twenty questions, and a 95 % interval around
a perfect score of so few reaches below the threshold. The result's note says where it does.

It does not know where thresholds come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..records import GateResult

Unit = Literal["fraction", "nats per token", "cosine"]
Interval = tuple[float, float]
Remedy = Literal["supervision", "rank", "anchors", "constraints", "routing"]


@dataclass(frozen=True)
class DoesNotApply:
    """The result of a gate that has nothing to measure on this candidate. The verdict leaves it out and says why."""

    reason: str


@dataclass(frozen=True)
class Measure:
    """What is fixed about one gate."""

    module: str  # `__name__` of the gate's file, which names the gate
    about: str  # what the value is, as half a sentence for a reader of the report
    unit: Unit
    at_least: bool  # True: value must be >= threshold; False: <=
    remedy: str = ""  # what to change when it fails, as an order to the reader of the report
    tries: tuple[Remedy, ...] = ()  # the remedies that a program may try when it fails
    exact: bool = False  # it counts without error, so its threshold is never calibrated

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
        """The result, decided on `value`. With `n` 0, or a value that is not finite, its value is None and never
        passes.
        """
        if n == 0 or value is None:
            return self._without_value(threshold, n, f"nothing to measure: {note}", details)
        if not math.isfinite(value):
            return self._without_value(threshold, n, f"the measure is {value}, which is not a number", details)
        passed = value >= threshold if self.at_least else value <= threshold
        bounds = interval if interval and all(math.isfinite(b) for b in interval) else None
        about = self._about(details)
        return GateResult(self.gate, float(value), threshold, self.at_least, passed, n, bounds, note, about)

    def broken(self, threshold: float, why: str) -> GateResult:
        """The result of a gate whose numbers are not finite. It never passes."""
        return self._without_value(threshold, 0, why, None)

    def _without_value(self, threshold: float, n: int, note: str, details: dict[str, Any] | None) -> GateResult:
        return GateResult(self.gate, None, threshold, self.at_least, False, n, None, note, self._about(details))

    def _about(self, details: dict[str, Any] | None) -> dict[str, Any]:
        exact = {"exact": True} if self.exact else {}
        texts = {"about": self.about, "unit": self.unit, "remedy": self.remedy, "tries": list(self.tries)}
        return {**texts, **exact, **(details or {})}


def bad_end(result: GateResult) -> float | None:
    """The end of the interval that speaks against the candidate; the value where there is no interval."""
    if result.value is None or result.interval is None:
        return result.value
    return min(result.interval) if result.at_least else max(result.interval)


def decided(result: GateResult, calibrated: bool) -> GateResult:
    """The final decision: on the interval's bad end for a calibrated threshold, else on the value.

    The result's note says so where the interval makes the difference.
    """
    worst = bad_end(result)
    if worst is None or result.value is None:
        return result
    holds = worst >= result.threshold if result.at_least else worst <= result.threshold
    remark = ""
    if calibrated:
        if result.passed and not holds:
            remark = "the value alone would pass, its interval's bad end does not: more questions would tell"
        result = replace(result, passed=holds, details={**result.details, "decided": "bad end"})
    elif result.interval and min(result.interval) < result.threshold < max(result.interval):
        remark = "decided on the value, its interval crosses the threshold"
    return replace(result, note="; ".join(filter(None, (result.note, remark))))
