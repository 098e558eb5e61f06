"""Abstention: whether the student refuses where the passages before it do not settle the question, and only there.

In: answers to questions with passages of a corpus before them, or those of a trace. Retrieval alone labels each
question as resolved, contested or indeterminate (`gating/grounded/evidence.py`). Out: F1 of "I don't know" as the
answer to indeterminate questions. The gate `refusal` measures the same for a student without passages.

It does not expect that an answer to a contested question tells the disagreement: an answer with either side is no
mistake. `details["sensitivity"]` says how many labels change when a threshold of the labels moves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..gating.context import Context
from ..gating.grounded.evidence import LABELS, sensitivity
from ..gating.grounded.responses import ResponseRecord
from ..gating.measure import DoesNotApply, Measure
from ..gating.stats import f1_interval
from ..records import Candidate, GateResult

MEASURE = Measure(
    __name__, "F1 of “I don’t know” where a corpus does not settle the question", "fraction", at_least=True,
    remedy="Look at the labels first (details); then train on questions whose passages do not answer them.",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of the gate `abstention`."""

    threshold: float = 0.85
    """Least F1, a fraction from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult | DoesNotApply:
    """F1; n = questions; the interval comes from Wilson's."""
    responses = ctx.grounded_responses()
    if responses is None:
        return DoesNotApply("no corpus to answer from was given")
    refused, expected = [r.refused for r in responses], [r.expected for r in responses]
    details = _labels(responses, ctx)
    labels = ", ".join(f"{n} {label}" for label, n in details["labels"].items())
    if not any(expected) or all(expected):
        return MEASURE.result(
            None, config.threshold, 0, note=f"needs questions of both kinds: {labels}", details=details
        )
    hits = sum(r and e for r, e in zip(refused, expected, strict=True))
    value = 2 * hits / (sum(refused) + sum(expected))
    interval = f1_interval(hits, sum(refused), sum(expected))
    note = f"{sum(refused)} refused, {hits} of them rightly; {labels}"
    return MEASURE.result(value, config.threshold, len(responses), interval, note, details)


def _labels(responses: list[ResponseRecord], ctx: Context) -> dict[str, Any]:
    """The number of questions with each label, and the number whose label changes when a threshold moves."""
    counts = Counter(r.label for r in responses)
    evidence = [r.evidence for r in responses if r.evidence is not None]
    return {
        "labels": {label: counts[label] for label in LABELS},
        "sensitivity": sensitivity(evidence, ctx.label_thresholds),
    }
