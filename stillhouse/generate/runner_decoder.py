"""A decoder for any runner: it uses the runner's own cache and decodes one token a step.

In: a runner, prompts, an adapter slot for each. Out: what the loop in `decode.py` needs of a decoder. It ignores
drafts: they save time only where a network reads several tokens in one step. It does not know how tokens are chosen or
when an answer ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models import TextModel
from ..runners import Runner


class RunnerDecoder:
    """Rows that a runner's own prefill and decode answer together. Finished rows leave the cache."""

    def __init__(self, runner: Runner, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        self._runner, self._prompts = runner, prompts
        self._cache = runner.cache(slots, tokens=max(map(len, prompts)))
        self._places = list(range(len(prompts)))  # the number of each row in the cache
        self._tokens: Sequence[int] = ()

    @property
    def model(self) -> TextModel:
        """The text side of the computed model."""
        return self._runner.model

    def step(self) -> Tensor:
        """Next-token logits_BKV in float32, K = 1: first after the prompts, then after the newest token of each row."""
        if not self._tokens:
            logits_BV = self._runner.prefill(self._cache, self._prompts)
            assert logits_BV is not None, "asked for"
            return logits_BV[:, None]
        tokens = dict(zip(self._places, self._tokens, strict=True))
        logits_BV = self._runner.decode(self._cache, [tokens[place] for place in range(len(tokens))])
        return logits_BV[self._places, None]

    def accept(self, greedy_BK: Tensor) -> list[int]:
        """How many tokens of each row's draft are right: 0, for drafts are not read."""
        return [0] * len(greedy_BK)

    def append(self, tokens: Sequence[int], drafts: Sequence[Sequence[int]]) -> None:
        """Append the next token of every row."""
        self._tokens = tokens

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows. In a cache the last row takes the number of a row that leaves."""
        for place in sorted({*self._places} - {self._places[row] for row in rows}, reverse=True):
            last = len(self._places) - 1
            self._cache.leave(place)
            self._places = [place if p == last else p for p in self._places if p != place]
        self._tokens = [self._tokens[row] for row in rows]
