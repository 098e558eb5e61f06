"""Attention of many rows that begin with the same text, whose keys and values are there once.

In: what a network has cached of a text, for a batch of one. Out: a context in which rows look at that and at their own
tokens, as if each had a copy: scores against the text are one product for all rows, scores against a row's own keys
another, and one softmax goes over both (the decomposition of Juravsky et al. 2024, arXiv 2402.05099). A copy per row,
written anew with every token, is most of what answering a few hundred questions about one text would cost.

It does not know what the text is, nor which token comes next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ._models_attention import attending, replaceable, window_of

SCORES = 2**25  # there at once, float32
_NAME = "stillhouse_shared"


def shareable(network: PreTrainedModel, cache: DynamicCache) -> bool:
    """Whether rows of this network can look at `cache`, which it made, without a copy each."""
    return replaceable(network) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)


class Shared:
    """The keys and values of a text of `tokens` tokens."""

    def __init__(self, network: PreTrainedModel, cache: DynamicCache, tokens: int) -> None:
        self._network, self._layers, self._tokens = network, cache.layers, tokens

    @contextmanager
    def looking(self, position_BT: Tensor, position_BS: Tensor, own_BS: Tensor) -> Iterator[None]:
        """Inside, a forward of tokens at `position_BT` looks at the text and at what lies in the S columns of a cache
        of the rows' own, the new ones last: where `own_BS` is 1, tokens at `position_BS`, else nothing. Columns of a
        row are in the order of its tokens."""
        token = _CURRENT.set(_Looks(self._layers, self._tokens, position_BT, position_BS, own_BS))
        try:
            with attending(self._network, _NAME):
                yield
        finally:
            _CURRENT.reset(token)


class _Looks:
    """One forward's view: what its rows may look at in each layer."""

    def __init__(
        self, layers: Sequence[Any], tokens: int, position_BT: Tensor, position_BS: Tensor, own_BS: Tensor
    ) -> None:
        self._layers, self._tokens = layers, tokens
        self._new_BT1, self._own_B1S = position_BT[:, :, None], position_BS[:, None]
        new = position_BT.shape[1]
        column_S = torch.arange(position_BS.shape[1], device=position_BS.device)
        self._before_BTS = (column_S <= column_S[-new:, None]) & own_BS.bool()[:, None]
        self._masks: dict[tuple[int | None, int], tuple[Tensor, Tensor | None]] = {}

    def text(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """The text's keys and values for this layer, `[G, P, D]`; a layer that slides has the newest alone."""
        layer = self._layers[int(module.layer_idx)]  # type: ignore[arg-type]
        return layer.keys[0], layer.values[0]

    def hidden(self, window: int | None, kept: int) -> tuple[Tensor, Tensor | None]:
        """What is not to be seen: of the rows' own, `[B, 1, T, S]`, and of the `kept` newest tokens of the text,
        `[B, 1, T, P]`; None where all of it is seen."""
        if (window, kept) not in self._masks:
            seen_BTS, hidden = self._before_BTS, None
            if window is not None:
                seen_BTS = seen_BTS & (self._new_BT1 - self._own_B1S < window)
                text_P = torch.arange(self._tokens - kept, self._tokens, device=seen_BTS.device)
                hidden = (self._new_BT1 - text_P >= window)[:, None]
            self._masks[window, kept] = ~seen_BTS[:, None], hidden
        return self._masks[window, kept]


_CURRENT: ContextVar[_Looks] = ContextVar("_CURRENT")


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """For transformers: queries `[B, H, T, D]`, the rows' own keys and values `[B, G, S, D]` -> `[B, T, H, D]`."""
    looks = _CURRENT.get()
    keys_GPD, values_GPD = looks.text(module)
    rows, heads, new, dim = query.shape
    groups, own, text = key.shape[1], key.shape[2], keys_GPD.shape[1]
    hidden_own, hidden_text = looks.hidden(window_of(module), text)
    query = query * (settings.get("scaling") or dim**-0.5)
    each = max(1, SCORES // (heads * new * (text + own)))
    said = []
    for some in range(0, rows, each):
        part = slice(some, min(some + each, rows))
        query_BGXD = query[part].reshape(-1, groups, heads // groups * new, dim)
        many = len(query_BGXD)
        query_GYD = query_BGXD.transpose(0, 1).reshape(groups, -1, dim)
        scores_BGXP = torch.bmm(query_GYD, keys_GPD.mT).view(groups, many, -1, text).transpose(0, 1)
        scores_BGXS = query_BGXD @ key[part].mT
        scores = torch.cat([scores_BGXP, scores_BGXS], -1).float().view(many, heads, new, text + own)
        scores[..., text:].masked_fill_(hidden_own[part], -torch.inf)
        if hidden_text is not None:
            scores[..., :text].masked_fill_(hidden_text[part], -torch.inf)
        chances = F.softmax(scores, -1).to(query.dtype).view(many, groups, -1, text + own)
        chances_GYP = chances[..., :text].transpose(0, 1).reshape(groups, -1, text)
        of_text_BGXD = torch.bmm(chances_GYP, values_GPD).view(groups, many, -1, values_GPD.shape[-1]).transpose(0, 1)
        said_BGXD = of_text_BGXD + chances[..., text:] @ value[part]
        said.append(said_BGXD.reshape(many, heads, new, -1).transpose(1, 2))
    return torch.cat(said) if len(said) > 1 else said[0], None


AttentionInterface.register(_NAME, _attend)
