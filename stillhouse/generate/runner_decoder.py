"""The decoder of any runner: rows with its cache, one token a step.

In: a runner, prompts, an adapter slot for each. Out: what `generate` asks of a decoder. Drafts are not read: they save
time where a network reads several tokens at a step. It does not know how tokens are chosen or when an answer ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models import TextModel
from ..runners import Runner


class RunnerDecoder:
    """Rows that are answered together by a runner's own prefill and decode; finished rows leave its cache."""

    def __init__(self, runner: Runner, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        self._runner, self._prompts = runner, prompts
        self._cache = runner.cache(slots, tokens=max(map(len, prompts)))
        self._places = list(range(len(prompts)))  # of each row, its number in the cache
        self._tokens: Sequence[int] = ()

    @property
    def model(self) -> TextModel:
        """The text side of what is computed."""
        return self._runner.model

    def step(self) -> Tensor:
        """Next-token logits_BKV in float32, K = 1: after the prompts, then after the token of each row."""
        if not self._tokens:
            logits_BV = self._runner.prefill(self._cache, self._prompts)
            assert logits_BV is not None, "asked for"
            return logits_BV[:, None]
        tokens = dict(zip(self._places, self._tokens, strict=True))
        logits_BV = self._runner.decode(self._cache, [tokens[place] for place in range(len(tokens))])
        return logits_BV[self._places, None]

    def accept(self, greedy_BK: Tensor) -> list[int]:
        """How many tokens of each row's draft stand: none was read."""
        return [0] * len(greedy_BK)

    def append(self, tokens: Sequence[int], drafts: Sequence[Sequence[int]]) -> None:
        """The token that every row goes on with."""
        self._tokens = tokens

    def keep(self, rows: Sequence[int]) -> None:
        """These rows are left. In a cache the last row takes the number of one that leaves."""
        for place in sorted({*self._places} - {self._places[row] for row in rows}, reverse=True):
            last = len(self._places) - 1
            self._cache.leave(place)
            self._places = [place if p == last else p for p in self._places if p != place]
        self._tokens = [self._tokens[row] for row in rows]
