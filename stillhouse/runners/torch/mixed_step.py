"""One forward that decodes some rows and reads the next piece of other rows' prompts.

In: a network, and two `Part`s, each a cache with the next ids of its rows. Out: next-token logits. The tokens of all
rows lie side by side in one flat row, so that every product of the network is one product for all of them. A few more
tokens in a forward cost far less than a second forward, which would read all weights again (Agrawal et al. 2023, arXiv
2308.16369, call this piggybacking). Only attention tells the rows apart (`compute/attention`).

It does not know when to read how much (`serve/engine/prefill_budget.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...compute.attention import CachedRows, forward
from .kv_cache import BatchCache


class Part(NamedTuple):
    """The next ids of the rows of one batch."""

    cache: BatchCache
    """The rows' cache. `BatchCache.place` has made room for the ids."""
    ids: Sequence[Sequence[int]]
    """The ids of each row, all of one length."""


def flat_logits(network: PreTrainedModel, parts: Sequence[Part], kept_places: Sequence[int]) -> Tensor:
    """Logits `[len(kept_places), vocabulary]` after these places of the flat row. The caller has to `extend` the
    caches afterwards."""
    device = network.device
    flat_T = torch.tensor([token for part in parts for row in part.ids for token in row], device=device)
    positions: list[Tensor] = []
    groups: list[CachedRows] = []
    for cache, ids in parts:
        rows, width, start = len(ids), len(ids[0]), groups[-1].tokens.stop if groups else 0
        positions.append(cache.positions(width, device).flatten())
        groups.append(CachedRows(start, rows, width, cache, cache.visible(width, device)))
    logits_1TV: Tensor = forward(
        network,
        flat_T[None],
        torch.cat(positions)[None],
        groups,
        logits_to_keep=torch.tensor(kept_places, device=device),
    ).logits
    return logits_1TV[0]
