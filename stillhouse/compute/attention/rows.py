"""Rows of a forward, as attention sees them: which of its tokens are theirs, and what those look at.

In: queries, keys and values `[tokens, heads, dim]` of tokens that lie side by side, row after row. Out: what each token
takes from the values, in the same order. `UncachedRows` look at their own tokens alone. `CachedRows` go on from a
cache, and may begin with a text whose keys and values are there once for all of its rows. Attention is causal, in a
window where the layer has one; query heads may share keys.

It does not know whose rows they are, nor the rest of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, Cache

from .. import fused
from ..kernels import usable
from .grouped import grouped_attention
from .masks import Visible

SHORT = 128  # tokens of a row up to which torch's own attention is mostly its start
SDPA = AttentionInterface()["sdpa"]  # transformers' own, around torch's scaled_dot_product_attention
States = Sequence[Tensor]  # queries, keys and values


class UncachedRows:
    """Whole rows of these lengths, one behind the other from token `start` on."""

    def __init__(self, lengths: Sequence[int], start: int, device: torch.device) -> None:
        length_B1 = torch.tensor(lengths, device=device)[:, None]
        self.tokens = slice(start, start + sum(lengths))
        self._rows, self._width = len(lengths), -(-max(lengths) // 8) * 8
        self._start_B = F.pad(length_B1.cumsum(0)[:, 0], (1, 0))
        column_W = torch.arange(self._width, device=device)
        # Rows are padded on the right, with their last token: a causal look never falls there.
        self._token_X = (self._start_B[:-1, None] + torch.minimum(column_W, length_B1 - 1)).flatten()
        self._cell_T = (column_W < length_B1).flatten().nonzero()[:, 0]
        self._visible = Visible(column_W[None], None, self._width)

    def attend(self, module: nn.Module, states: States, settings: dict[str, Any]) -> Tensor:
        """`[tokens, heads, dim]` for this layer."""
        window, short = window_of(module), self._width <= SHORT and not settings.get("dropout")
        scale = settings.get("scaling") or states[0].shape[-1] ** -0.5
        if short and usable(*states) and states[0].shape[-1] == states[2].shape[-1]:
            query, keys, values = states
            return fused.attention(query, keys, values, self._start_B, window, scale)
        picked = (states_THD.index_select(0, self._token_X) for states_THD in states)
        query, keys, values = _rectangles(picked, self._rows, self._width)
        if short:
            out_BWHD = grouped_attention(query, (keys, values), self._visible.allowed(window), scale)
        else:
            out_BWHD = SDPA(module, query, keys, values, self._visible.mask(window), **settings)[0]
        out_THD: Tensor = out_BWHD.flatten(0, 1).index_select(0, self._cell_T)
        return out_THD


class Text(NamedTuple):
    """What a network has cached of a text of so many tokens, for a batch of one."""

    cache: Cache
    tokens: int

    def pair(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Keys and values for this layer, `[G, P, D]`; a layer with a window may have kept the newest alone."""
        layer: Any = self.cache.layers[_number(module)]
        return layer.keys[0], layer.values[0]


class CachedRows:
    """The next tokens of rows that go on, equally many of each, row after row from token `start` on. `cache` takes
    their keys and values and gives those of all columns, which `visible` is about. `texts`: what each row begins with,
    rows of one text beside each other, None for a row without; None altogether where no row has one."""

    def __init__(
        self, start: int, rows: int, width: int, cache: Cache, visible: Visible,
        texts: Sequence[Text | None] | None = None,
    ) -> None:  # fmt: skip
        self.tokens = slice(start, start + rows * width)
        self._rows, self._width, self._cache, self._visible, self._texts = rows, width, cache, visible, texts

    def attend(self, module: nn.Module, states: States, settings: dict[str, Any]) -> Tensor:
        """`[tokens, heads, dim]` for this layer."""
        query, keys, values = _rectangles(states, self._rows, self._width)
        keys, values = self._cache.update(keys, values, _number(module))
        window = window_of(module)
        if self._texts is None:
            out: Tensor = SDPA(module, query, keys, values, self._visible.mask(window), **settings)[0]
            return out.flatten(0, 1)
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        allowed_B1TS = self._visible.allowed(window).expand(self._rows, -1, -1, -1)
        parts = []
        for some, text in _spans(self._texts):
            pair = text.pair(module) if text else None
            hidden = self._text_in_window(some, text, pair[0].shape[1], window) if text and pair else None
            own = keys[some], values[some]
            parts.append(grouped_attention(query[some], own, allowed_B1TS[some], scale, pair, hidden))
        return torch.cat(parts).flatten(0, 1)

    def _text_in_window(self, some: slice, text: Text, kept: int, window: int | None) -> Tensor | None:
        """Which of the `kept` newest tokens of a text are seen, `[rows, 1, T, kept]`; None: all."""
        if window is None:
            return None
        new_BT = self._visible.new_BT.expand(self._rows, -1)[some]
        text_P = torch.arange(text.tokens - kept, text.tokens, device=new_BT.device)
        return (new_BT[:, :, None] - text_P < window)[:, None]


def window_of(module: nn.Module) -> int | None:
    """How many tokens back this layer looks, itself included; None: all."""
    config: Any = module.config
    types = getattr(config, "layer_types", None)
    slides = types is not None and types[_number(module)] == "sliding_attention"
    return config.sliding_window if slides else None


def _number(module: nn.Module) -> int:
    """The number of the layer that an attention module is of, from 0."""
    return int(module.layer_idx)  # type: ignore[arg-type]


def _rectangles(states: Any, rows: int, width: int) -> Iterator[Tensor]:
    """`[rows * width, heads, dim]` -> `[rows, heads, width, dim]` each."""
    return (states_XHD.unflatten(0, (rows, width)).transpose(1, 2) for states_XHD in states)


def _spans(texts: Sequence[Text | None]) -> Iterator[tuple[slice, Text | None]]:
    """Rows that begin with one text."""
    start = 0
    for _, same in groupby(texts, key=id):
        rows = list(same)
        yield slice(start, start + len(rows)), rows[0]
        start += len(rows)
