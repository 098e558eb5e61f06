"""Intervals against published and hand-computed values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gating.stats import bootstrap, f1_interval, ratio, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(pair: tuple[int, int]) -> None:
    successes, n = pair
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_ratio_weighs_by_tokens() -> None:
    assert ratio([10, 2], [100, 1]) == pytest.approx(12 / 101)


def test_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    values = [float(v) for v in range(100)]
    low, high = bootstrap(values)
    assert (low, high) == bootstrap(values)
    half = 1.96 * 28.866 / 10  # standard deviation of 0..99 over sqrt(100)
    assert low == pytest.approx(49.5 - half, abs=0.5)
    assert high == pytest.approx(49.5 + half, abs=0.5)


def test_bootstrap_of_equal_values_has_no_width() -> None:
    assert bootstrap([0.3] * 5) == pytest.approx((0.3, 0.3))
    assert bootstrap([0.3]) == pytest.approx((0.3, 0.3))
    assert bootstrap([2.0, 4.0], [10, 20]) == pytest.approx((0.2, 0.2))


def test_the_interval_of_f1_by_hand() -> None:
    """8 hits, 2 marked wrongly, 10 that should be: F1 = 16/20, the share of hits 8 of 12."""
    low, high = wilson(8, 12)
    assert f1_interval(8, 10, 10) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))
    assert f1_interval(8, 10, 10)[0] < 0.8 < f1_interval(8, 10, 10)[1]


def test_a_perfect_score_of_few_has_a_width() -> None:
    assert f1_interval(5, 5, 5)[0] < 0.8
    assert f1_interval(5, 5, 5)[1] == 1.0
    assert f1_interval(0, 5, 5)[0] == 0.0


def test_wilson_of_shares_lies_between_the_counts_around_it() -> None:
    assert wilson(8, 12)[0] < wilson(8.5, 12)[0] < wilson(9, 12)[0]
