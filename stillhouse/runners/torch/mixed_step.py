"""One forward for rows that get one more token and for the next piece of other rows' prompts.

In: a network, and two `Part`s: a cache and the next ids of its rows each. Out: next-token logits. Their tokens lie side
by side in one flat row, so that every product of the network is one product for all of them: a few more tokens in
a forward cost far less than a forward of their own, which has to read all weights again (Agrawal et al. 2023,
arXiv 2308.16369, call it piggybacking). Attention alone tells rows apart: it is transformers' own, called once for each
part, with that part's keys and values.

It does not know when to read how much (`serve/engine/prefill_budget.py`), nor attention that is anything but causal or
causal in a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ...compute.attention import attending, window_of
from .kv_cache import BatchCache, Pair

_NAME = "stillhouse_along"


def flat_logits(network: PreTrainedModel, parts: Sequence[Part], wanted: Sequence[int]) -> Tensor:
    """Logits `[len(wanted), vocabulary]` behind these tokens of the flat row. The caches' columns do not count yet."""
    device = network.device
    flat_T = torch.tensor([token for part in parts for row in part.ids for token in row], device=device)
    position_T = torch.cat([part.cache.positions(part.width, device).flatten() for part in parts])
    flat = _Flat(parts)
    with _attending(network, flat):
        logits_TV: Tensor = network(
            input_ids=flat_T[None], position_ids=position_T[None], past_key_values=flat, use_cache=True,
            logits_to_keep=torch.tensor(wanted, device=device),
        ).logits[0]  # fmt: skip
    return logits_TV


class Part:
    """A batch's place in the flat row: `ids` of each of its rows, all of one length, from token `start` on. Its cache
    has placed them."""

    def __init__(self, cache: BatchCache, ids: Sequence[Sequence[int]], start: int) -> None:
        self.cache, self.ids, self.width, self.start = cache, ids, len(ids[0]), start
        self.end = start + cache.rows * self.width
        self.pairs: dict[int, Pair] = {}
        self._masks: dict[int | None, Tensor | None] = {}

    def of(self, states_1HTD: Tensor) -> Tensor:
        """Its own tokens of the flat row, `[rows, heads, width, dim]`."""
        own_HTD = states_1HTD[0, :, self.start : self.end]
        return own_HTD.reshape(len(own_HTD), self.cache.rows, self.width, -1).transpose(0, 1)

    def attend(self, module: nn.Module, query_1HTD: Tensor, window: int | None, settings: dict[str, Any]) -> Tensor:
        """`[1, rows * width, heads, dim]`."""
        keys, values = self.pairs[int(module.layer_idx)]  # type: ignore[arg-type]
        mask = self._mask(window, keys.device)
        mixed_BWHD: Tensor = sdpa_attention_forward(module, self.of(query_1HTD), keys, values, mask, **settings)[0]
        return mixed_BWHD.flatten(0, 1)[None]

    def _mask(self, window: int | None, device: torch.device) -> Tensor | None:
        if window not in self._masks:
            self._masks[window] = self._allowed(window, device)
        return self._masks[window]

    def _allowed(self, window: int | None, device: torch.device) -> Tensor | None:
        """`[rows, 1, width, keys]`, True where a token looks; None where each looks at everything."""
        first, end, starts = self.cache.extent.first, self.cache.extent.end, self.cache.starts
        whole = window is None or end + 1 - first <= window
        if self.width == 1 and whole and all(start == first for start in starts):
            return None
        key_K = torch.arange(first, end + self.width, device=device)
        query_W1 = torch.arange(end, end + self.width, device=device)[:, None]
        seen_WK = key_K <= query_W1 if window is None else (key_K <= query_W1) & (key_K > query_W1 - window)
        own_B11 = torch.tensor(starts, device=device)[:, None, None]
        allowed_BWK: Tensor = seen_WK & (key_K >= own_B11) | (key_K == query_W1)  # padding looks at itself: no NaN
        return allowed_BWK[:, None]


class _Flat(Cache):
    """What a network is given as its cache: writes each batch's part of the flat row to that batch's own."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(layers=list(parts[0].cache.layers))
        self.parts = parts

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Pair:
        """The new keys and values as they are; those of all columns wait for `_attend` in the parts."""
        for part in self.parts:
            part.pairs[layer_idx] = part.cache.parts[layer_idx].update(part.of(key_states), part.of(value_states))
        return key_states, value_states


_CURRENT: ContextVar[_Flat] = ContextVar("_CURRENT")


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """For transformers: attention over a flat row, batch by batch."""
    mixed = [part.attend(module, query, window_of(module), settings) for part in _CURRENT.get().parts]
    return torch.cat(mixed, 1), None


AttentionInterface.register(_NAME, _attend)


@contextmanager
def _attending(network: PreTrainedModel, flat: _Flat) -> Iterator[None]:
    """Inside, the network's attention is `_attend`, over these parts."""
    token = _CURRENT.set(flat)
    try:
        with attending(network, _NAME):
            yield
    finally:
        _CURRENT.reset(token)
