"""How much of a prompt to read beside the rows that are being answered.

In: how long steps took, with so many tokens of prompts in them. Out: tokens for the next step, so that it takes about
`stretch` times a step that reads nothing. Both are medians over the last steps, so that one slow step decides nothing.
It does not know rows or clocks.
"""

from __future__ import annotations

import statistics
from collections import deque

LEAST = 8  # tokens: reading anything at all has a cost that is the same for fewer
_PLAIN, _READING = 15, 9  # steps that are looked at


class Pace:
    """`step` says what a step took; `tokens` is what the next one may read."""

    def __init__(self, stretch: float) -> None:
        self._stretch = stretch
        self._plain: deque[float] = deque(maxlen=_PLAIN)
        self._reading: deque[tuple[float, int]] = deque(maxlen=_READING)

    def step(self, seconds: float, tokens: int) -> None:
        """A step took this long, with so many tokens of prompts in it."""
        if tokens:
            self._reading.append((seconds, tokens))
        else:
            self._plain.append(seconds)

    @property
    def tokens(self) -> int:
        """How many tokens of prompts the next step may read."""
        if not self._plain or not self._reading:
            return LEAST
        plain = statistics.median(self._plain)
        each = statistics.median((seconds - plain) / tokens for seconds, tokens in self._reading)
        most = 2 * max(tokens for _, tokens in self._reading)  # further than that, nothing is known
        return max(LEAST, min(most, int((self._stretch - 1) * plain / each) if each > 0 else most))
