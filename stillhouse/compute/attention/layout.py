"""A forward whose tokens lie side by side, whoever's row they are of. Attention alone tells rows apart.

In: a network of transformers, the ids and positions of its tokens in any shape, and groups of rows over them. Out: what
the network gives. Everything in it but attention looks at one token at a time, so a forward takes one product with
each weight for all rows, of one length or not, with a cache or without.

Attention is exchanged by the public `AttentionInterface` of transformers: its entry "sdpa", the usual one, is ours from
the import on. Outside of `forward` ours calls transformers' own. A network that is set to another entry, or attends by
means of its own, never calls it: `fits` (trial.py) tells. What `forward` needs is in a context variable, so threads do
not disturb each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from ...errors import ModelError
from .rows import SDPA, CachedRows, UncachedRows

Group = CachedRows | UncachedRows
UNKNOWN = ("position_bias", "s_aux", "softcap")  # settings of attention that no group of rows heeds


@dataclass(frozen=True)
class Distinct:
    """U tokens that are computed for the T tokens of all rows, since several rows begin with the same.

    `place_T`: which of the U stands for each of the T; None: the first T, in order. `source_U`: one of the T that each
    of the U stands for.
    """

    place_T: Tensor | None
    source_U: Tensor

    def expand(self, values_UX: Tensor) -> Tensor:
        """What was computed, wherever it is needed, `[T, ...]`, or longer if nothing is shared."""
        return values_UX if self.place_T is None else values_UX.index_select(0, self.place_T)

    def pick(self, values_TX: Tensor) -> Tensor:
        """The way back, `[U, ...]`."""
        same = self.place_T is None and len(values_TX) == len(self.source_U)
        return values_TX if same else values_TX.index_select(0, self.source_U)


class _Layout(NamedTuple):
    groups: Sequence[Group]
    distinct: Distinct | None


_CURRENT: ContextVar[_Layout | None] = ContextVar("_CURRENT", default=None)


def forward(
    network: Callable[..., Any], ids_BT: Tensor, position_BT: Tensor, groups: Sequence[Group],
    distinct: Distinct | None = None, **settings: Any,
) -> Any:  # fmt: skip
    """`network(input_ids=ids_BT, position_ids=position_BT, **settings)` with attention within the rows of `groups`.

    B and T are of no account: row after row of `ids_BT` they are tokens one behind the other, those of the first group,
    then those of the next. With `distinct` they are its U tokens, and groups are over the T.
    """
    token = _CURRENT.set(_Layout(groups, distinct))
    unused_1111 = ids_BT.new_zeros(1, 1, 1, 1)  # a mask of four dimensions keeps transformers from making one
    try:
        return network(
            input_ids=ids_BT, position_ids=position_BT, attention_mask=unused_1111, use_cache=False, **settings
        )
    finally:
        _CURRENT.reset(token)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """For transformers: from queries, keys and values `[B, heads, T, dim]` to `[B, T, heads, dim]`."""
    layout = _CURRENT.get()
    if layout is None:
        stock: tuple[Tensor, None] = SDPA(module, query, key, value, attention_mask, **settings)
        return stock
    if any(settings.get(name) is not None for name in UNKNOWN):
        raise ModelError(f"{type(module).__name__}: attention with {UNKNOWN} is not known for rows side by side")
    settings["is_causal"] = True
    states = [states_BHTD.transpose(1, 2).flatten(0, 1) for states_BHTD in (query, key, value)]
    if layout.distinct is not None:
        states = [layout.distinct.expand(states_UHD) for states_UHD in states]
    parts = [group.attend(module, [s_THD[group.tokens] for s_THD in states], settings) for group in layout.groups]
    out_THD = parts[0] if len(parts) == 1 else torch.cat(parts)
    if layout.distinct is not None:
        out_THD = layout.distinct.pick(out_THD)
    return out_THD.view(query.shape[0], query.shape[2], *out_THD.shape[1:]), None


AttentionInterface.register("sdpa", _attend)
