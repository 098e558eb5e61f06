"""How many tokens of prompts a step reads while it also decodes rows.

In: how long each step took, and how many tokens of prompts it read. Out: tokens for the next step, chosen so that the
step takes about `stretch` times as long as a step that only decodes. Both times are medians over the last steps, so
that one slow step decides nothing. This module does not know rows or clocks.
"""

from __future__ import annotations

import statistics
from collections import deque

MIN_TOKENS = 8  # fewer tokens save no time: the fixed cost of reading a piece is larger
_DECODE_STEPS, _MIXED_STEPS = 15, 9  # how many of the last steps are compared


class PrefillBudget:
    """`record` notes each step, and `tokens` is what the next step may read.

    `stretch` is how many times as long as a decoding step a step may take; more than 1.
    """

    def __init__(self, stretch: float) -> None:
        self._stretch = stretch
        self._decode: deque[float] = deque(maxlen=_DECODE_STEPS)
        self._mixed: deque[tuple[float, int]] = deque(maxlen=_MIXED_STEPS)

    def record(self, seconds: float, tokens: int) -> None:
        """Note a step that took `seconds` and read `tokens` tokens of prompts, or none."""
        if tokens:
            self._mixed.append((seconds, tokens))
        else:
            self._decode.append(seconds)

    @property
    def tokens(self) -> int:
        """How many tokens of prompts the next step may read."""
        if not self._decode or not self._mixed:
            return MIN_TOKENS
        step_seconds = statistics.median(self._decode)
        token_seconds = statistics.median((seconds - step_seconds) / tokens for seconds, tokens in self._mixed)
        limit = 2 * max(tokens for _, tokens in self._mixed)  # times of larger pieces are not known
        if token_seconds <= 0:
            return max(MIN_TOKENS, limit)
        return max(MIN_TOKENS, min(limit, int((self._stretch - 1) * step_seconds / token_seconds)))
