"""Intervals for small samples.

In: counts, or one value per question or passage. Out: 95 % intervals. Proportions get Wilson's score interval (Wilson
1927; better than the normal one near 0 and 1, see Brown, Cai and DasGupta 2001). Ratios of sums get the percentile
bootstrap (Efron 1979), resampling whole questions or passages because their tokens are not independent.

It does not know what was measured, and takes questions for independent: wordings of one statement are not quite.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch

Z95 = 1.959963984540054


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion; `(0, 1)` when nothing was asked."""
    if n == 0:
        return 0.0, 1.0
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def ratio(sums: Sequence[float], weights: Sequence[float]) -> float:
    """`sum(sums) / sum(weights)`: a mean per token from sums per passage."""
    return sum(sums) / sum(weights)


def bootstrap(
    sums: Sequence[float], weights: Sequence[float] | None = None, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `ratio` over items drawn with replacement; without `weights`, of the mean.

    One item gives an interval of no width, which says nothing about the spread: judge it by `n`.
    """
    sums_N = torch.tensor(sums, dtype=torch.float64)
    weights_N = torch.ones_like(sums_N) if weights is None else torch.tensor(weights, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    index_DN = torch.randint(len(sums_N), (draws, len(sums_N)), generator=generator)
    ratios_D = sums_N[index_DN].sum(1) / weights_N[index_DN].sum(1)
    low, high = torch.quantile(ratios_D, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
