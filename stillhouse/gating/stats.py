"""Intervals for small samples.

In: counts, or one value per question or passage. Out: 95 % intervals. Proportions get Wilson's score interval (Wilson
1927; better than the normal one near 0 and 1, see Brown, Cai and DasGupta 2001); means of shares and F1 too, because
resampling a perfect score gives an interval of no width. Everything else gets the percentile bootstrap (Efron 1979),
resampling whole questions or passages because their tokens are not independent; a difference between two models is
resampled in pairs, by giving the differences.

It does not know what was measured, and takes questions for independent: wordings of one statement are not quite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor

Z95 = 1.959963984540054
DRAWS = 2000


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion; `(0, 1)` when nothing was asked. `successes` may be a sum of shares in [0, 1]:
    they vary less than yes and no, so the interval is then on the safe side."""
    if n == 0:
        return 0.0, 1.0
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def f1_interval(hits: int, marked: int, true: int) -> tuple[float, float]:
    """Interval of F1 from true positives, all marked and all that should be. F1 grows with the share of hits among what
    is marked or should be, 2x / (1 + x), so Wilson's interval of that share carries over, and a perfect score keeps a
    width, which a bootstrap of it would not have."""
    low, high = wilson(hits, marked + true - hits)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def ratio(sums: Sequence[float], weights: Sequence[float]) -> float:
    """`sum(sums) / sum(weights)`: a mean per token from sums per passage."""
    return sum(sums) / sum(weights)


def resampled(
    statistic: Callable[[Tensor], Tensor], n: int, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `statistic(index_DN) -> value_D` over `n` items drawn with replacement; draws without a
    finite value are left out. One item gives an interval of no width, which says nothing: judge it by `n`."""
    generator = torch.Generator().manual_seed(seed)
    values_D = statistic(torch.randint(n, (draws, n), generator=generator))
    values_D = values_D[values_D.isfinite()]
    if not len(values_D):
        return float("-inf"), float("inf")
    low, high = torch.quantile(values_D, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def bootstrap(
    sums: Sequence[float], weights: Sequence[float] | None = None, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `ratio`; without `weights`, of the mean."""
    sums_N = torch.tensor(sums, dtype=torch.float64)
    weights_N = torch.ones_like(sums_N) if weights is None else torch.tensor(weights, dtype=torch.float64)
    return resampled(lambda at_DN: sums_N[at_DN].sum(1) / weights_N[at_DN].sum(1), len(sums_N), draws=draws, seed=seed)
