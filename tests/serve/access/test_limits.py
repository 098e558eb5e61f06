"""Token buckets: never more than their depth and rate allow, whatever the clock and the callers do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.errors import InputError
from stillhouse.serve.access.limits import Bucket, Config, RateLimiter, take


class Clock:
    """A monotonic clock that stands where it is put."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    limits = RateLimiter(Config(requests_per_minute=60, burst_seconds=3), clock)
    assert [limits.take_request("a") for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]
    assert limits.take_request("b") == 0.0
    clock.now += 0.5
    assert limits.take_request("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert limits.take_request("a") == 0.0
    clock.now += 3600
    assert [limits.take_request("a") for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_a_cost_above_the_depth_waits_and_is_not_refused_for_ever() -> None:
    clock = Clock()
    limits = RateLimiter(Config(tokens_per_minute=600, burst_seconds=1), clock)
    assert limits.take_tokens("a", 50) == 0.0
    assert limits.take_tokens("a", 1) == pytest.approx(4.1)
    clock.now += 4.2
    assert limits.take_tokens("a", 1) == 0.0


def test_no_limit_is_no_limit() -> None:
    limits = RateLimiter(Config(requests_per_minute=None), Clock())
    assert {limits.take_request("a") for _ in range(10_000)} == {0.0}
    assert limits.take_tokens("a", 10**9) == 0.0


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 10)), max_size=40), st.floats(0.1, 100), st.floats(1, 50))
def test_never_more_than_depth_and_rate_allow(asked: list[tuple[float, float]], rate: float, depth: float) -> None:
    bucket, now, latest, taken = Bucket(depth, 0.0), 0.0, 0.0, 0.0
    for step, cost in asked:
        now += step
        latest = max(latest, now)
        bucket, wait = take(bucket, min(cost, depth), max(now, bucket.at), rate, depth)
        taken += min(cost, depth) if wait == 0.0 else 0.0
        assert wait >= 0.0
        assert taken <= depth + rate * latest + 1e-6


@pytest.mark.parametrize("name", ["requests_per_minute", "burst_seconds", "body_bytes"])
def test_settings_that_make_no_sense(name: str) -> None:
    with pytest.raises(InputError, match=rf"limits\.{name}: 0 is not allowed"):
        Config(**{name: 0})
