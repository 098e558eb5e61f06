"""Expected calibration error: how far the student's confidence in its answers is from how often they are right.

In: held-out questions, answerable and not, with the student's greedy answers. Confidence is the geometric mean of the
probabilities of an answer's tokens, its end included. Out: the mean over ten equal bins of |share right - mean
confidence|, weighed by the answers in each (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599), and the bins of a
reliability plot.

With few questions the error is biased upwards: in a small bin the share right is far from the confidence by chance
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gating.context import Context
from ..gating.measure import Measure
from ..gating.stats import resampled
from ..records import Candidate, GateResult
from ..text.answers import grade

MEASURE = Measure(
    __name__, "distance of confidence from being right, over ten bins", "fraction", at_least=False,
    remedy="Train fewer steps, or keep more of the teacher’s doubt (capture.top_k, capture.draws).",
    tries=("supervision", "constraints"),
)  # fmt: skip
BINS = 10


@dataclass(frozen=True)
class Config:
    """Settings of the gate `ece`."""

    threshold: float = 0.15
    """Largest error, a fraction from 0 to 1. A starting value, not calibrated."""


def check(candidate: Candidate, config: Config, ctx: Context) -> GateResult:
    """ECE; n = held-out questions; bootstrap over questions. `details["reliability"]`: the bins."""
    questions = ctx.held_out_questions
    if not questions:
        return MEASURE.result(None, config.threshold, 0, note="the study has no held-out questions")
    answers = ctx.scored_answers([q.text for q in questions], ctx.slot)
    confidences = [a.confidence for a in answers]
    right = [grade(a.text, ctx.expected[q]).correct for a, q in zip(answers, questions, strict=True)]
    gap_BN = binned_gaps(confidences, right)
    value = float(gap_BN.sum(1).abs().sum()) / len(questions)
    interval = resampled(lambda at_DN: _error(gap_BN, at_DN), len(questions))
    details = {"reliability": reliability(confidences, right)}
    return MEASURE.result(value, config.threshold, len(questions), interval, details=details)


def binned_gaps(confidences: Sequence[float], right: Sequence[bool]) -> Tensor:
    """gap_BN: right (1 or 0) minus confidence of each answer, in the row of its bin; 0 elsewhere."""
    gap_N = torch.tensor([float(r) - c for c, r in zip(confidences, right, strict=True)], dtype=torch.float64)
    bin_N = torch.tensor([_bin(c) for c in confidences])
    return torch.zeros(BINS, len(confidences), dtype=torch.float64).scatter(0, bin_N[None], gap_N[None])


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> list[dict[str, Any]]:
    """One row for each bin with answers: its borders, their number, their mean confidence, the share of them right."""
    rows = []
    for number in range(BINS):
        inside = [(c, r) for c, r in zip(confidences, right, strict=True) if _bin(c) == number]
        if n := len(inside):
            confidence, share = sum(c for c, _ in inside) / n, sum(r for _, r in inside) / n
            low, high = number / BINS, (number + 1) / BINS
            rows.append({"low": low, "high": high, "n": n, "confidence": confidence, "right": share})
    return rows


def _bin(confidence: float) -> int:
    return min(BINS - 1, int(confidence * BINS))


def _error(gap_BN: Tensor, at_DN: Tensor) -> Tensor:
    error_D = torch.zeros(len(at_DN), dtype=torch.float64)
    for gap_N in gap_BN:
        error_D += gap_N[at_DN].sum(1).abs()
    return error_D / at_DN.shape[1]
