"""Rate limits by token buckets, and the largest body that is read.

In: whose request it is, what it costs, a monotonic clock. Out: 0.0, or the seconds to wait (`Retry-After`). A bucket
fills at a steady rate up to its depth, and a request takes its cost out of it or waits. The wall clock does not matter.
It does not know requests.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import InputError

_MOST_BUCKETS = 100_000  # the ones that were idle longest are dropped: they are full


@dataclass(frozen=True)
class Config:
    """Limits of one API key. All numbers are more than 0."""

    requests_per_minute: float | None = 600.0
    """Requests a minute; None: no limit. The default is ten a second."""
    tokens_per_minute: float | None = None
    """Tokens of prompts and answers a minute; None, as by default: no limit."""
    burst_seconds: float = 10.0
    """Seconds' worth of both limits that may come at once."""
    body_bytes: int = 1 << 20
    """Bytes of a request's body; a larger one is refused with 413."""
    upload_bytes: int = 8 << 20
    """Bytes of the body of an uploaded memory."""

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "burst_seconds", "body_bytes", "upload_bytes"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"limits.{name}: {value} is not allowed; it must be more than 0")


@dataclass(frozen=True)
class Bucket:
    """A bucket that had `level` left at the instant `at` (seconds of a monotonic clock)."""

    level: float
    at: float


def take(bucket: Bucket, cost: float, now: float, rate: float, depth: float) -> tuple[Bucket, float]:
    """The bucket after an attempt to take `cost`, and the seconds to wait: 0.0 when it was taken.

    `rate` is what flows in per second. A cost above the depth is taken from a full bucket, which is then in debt: such
    a request waits longer, but not for ever.
    """
    level = min(depth, bucket.level + max(0.0, now - bucket.at) * rate)
    if level >= min(cost, depth):
        return Bucket(level - cost, now), 0.0
    return Bucket(level, now), (min(cost, depth) - level) / rate


class RateLimiter:
    """The buckets of all keys. Any number of threads may use it."""

    def __init__(self, config: Config = Config(), clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take_request(self, who: str) -> float:
        """Count one request of `who`; returns the seconds to wait, 0.0 when it may go on."""
        return self._take("requests", who, 1.0, self.config.requests_per_minute)

    def take_tokens(self, who: str, count: int) -> float:
        """Count tokens of `who` (prompt and answer); returns the seconds to wait, 0.0 when it may go on."""
        return self._take("tokens", who, float(count), self.config.tokens_per_minute)

    def _take(self, what: str, who: str, cost: float, per_minute: float | None) -> float:
        if per_minute is None:
            return 0.0
        rate = per_minute / 60.0
        depth, now = max(1.0, rate * self.config.burst_seconds), self._clock()
        with self._lock:
            before = self._buckets.pop((what, who), Bucket(depth, now))
            self._buckets[what, who], wait = take(before, cost, now, rate, depth)
            if len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
        return wait
