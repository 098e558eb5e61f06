"""One forward for rows that get one more token and for the next piece of other rows' prompts.

In: a network, and two `Part`s: a cache and the next ids of its rows each. Out: next-token logits. Their tokens lie side
by side in one flat row, so that every product of the network is one product for all of them: a few more tokens in
a forward cost far less than a forward of their own, which has to read all weights again (Agrawal et al. 2023,
arXiv 2308.16369, call it piggybacking). Attention alone tells rows apart (`compute/attention`).

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
    """The next `ids` of each row of a batch, all of one length. `cache` has made room for them."""

    cache: BatchCache
    ids: Sequence[Sequence[int]]


def flat_logits(network: PreTrainedModel, parts: Sequence[Part], wanted: Sequence[int]) -> Tensor:
    """Logits `[len(wanted), vocabulary]` behind these tokens of the flat row. The caches' columns do not count yet."""
    device = network.device
    flat_T = torch.tensor([token for part in parts for row in part.ids for token in row], device=device)
    positions: list[Tensor] = []
    groups: list[CachedRows] = []
    for cache, ids in parts:
        rows, width, start = len(ids), len(ids[0]), groups[-1].tokens.stop if groups else 0
        positions.append(cache.positions(width, device).flatten())
        groups.append(CachedRows(start, rows, width, cache, cache.visible(width, device)))
    logits_1TV: Tensor = forward(
        network, flat_T[None], torch.cat(positions)[None], groups, logits_to_keep=torch.tensor(wanted, device=device)
    ).logits
    return logits_1TV[0]
