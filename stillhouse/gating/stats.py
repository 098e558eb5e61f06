"""Intervals for small samples.

In: counts, or one value per question or passage. Out: 95 % intervals.

- Proportions get Wilson's score interval (Wilson 1927). Near 0 and 1 it is better than the normal one (Brown, Cai and
  DasGupta 2001). Means of shares and F1 get it too, because a bootstrap of a perfect score has no width.
- Everything else gets the percentile bootstrap (Efron 1979). It resamples whole questions or passages, because their
  tokens are not independent. For a difference between two models it is given the differences, and so resamples pairs.

It does not know what was measured. It takes questions for independent; wordings of one statement are not quite so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor

Z95 = 1.959963984540054
DRAWS = 2000


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion; `(0, 1)` for `n` 0.

    `successes` may be a sum of shares in [0, 1]. Shares vary less than yes and no, so the interval is then too wide
    rather than too narrow.
    """
    if n == 0:
        return 0.0, 1.0
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def f1_interval(hits: int, marked: int, true: int) -> tuple[float, float]:
    """Interval of F1. `hits`: true positives; `marked`: all that were marked; `true`: all that should be marked.

    Let x be the share of hits among what is marked or should be. Then F1 is 2x / (1 + x), which grows with x, so
    Wilson's interval of x gives the interval of F1. A perfect score keeps a width, which a bootstrap would not give it.
    """
    low, high = wilson(hits, marked + true - hits)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def ratio(sums: Sequence[float], weights: Sequence[float]) -> float:
    """`sum(sums) / sum(weights)`: a mean per token from sums per passage."""
    return sum(sums) / sum(weights)


def resampled(
    statistic: Callable[[Tensor], Tensor], n: int, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `statistic(index_DN) -> value_D` over `n` items drawn with replacement.

    Draws without a finite value are left out. One item gives an interval without width, which says nothing: look at
    `n`.
    """
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
