"""Reads a text that many prompts begin with, once.

In: token ids. Out: a `Prefix` with their keys and values, which batches share. It does not know the rest of the
prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..errors import ModelError
from ..models import Model
from .forward import Ids


@dataclass(frozen=True)
class Prefix:
    """A text that was read. It is never written to: batches get expanded views of it."""

    ids: tuple[int, ...]
    """The tokens of the text."""
    cache: DynamicCache
    """Their keys and values, for a batch of one row."""

    def expand(self, rows: int) -> DynamicCache:
        """Keys and values for `rows` rows, without a copy. Raises `ModelError` when a layer keeps something else."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
                raise ModelError(f"a cache layer of {type(layer).__name__} cannot be shared between prompts")
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache


def common_prefix(prompts: Sequence[Ids]) -> int:
    """How many leading ids all prompts share. Each prompt keeps at least one id of its own."""
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return max(shortest, 0)


@torch.inference_mode()
def prefill(model: Model, ids: Sequence[int], chunk: int = 2048) -> Prefix:
    """Read `ids`, `chunk` tokens at a time, and keep their keys and values."""
    cache = DynamicCache(config=model.network.config)
    for start in range(0, len(ids), chunk):
        part_BT = torch.tensor([ids[start : start + chunk]], device=model.device)
        model.network.base_model(input_ids=part_BT, past_key_values=cache, use_cache=True)
    return Prefix(tuple(ids), cache)


def plain_cache(network: PreTrainedModel) -> bool:
    """Whether this network keeps nothing of a row but keys and values, one column for each token."""
    return all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=network.config).layers)
