"""Chooses which prompts are answered in one batch: as many as fit, of similar length.

In: the size of every prompt, and the text before it. Out: groups of prompt numbers. It does not know tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ..models import Model
from ..runners import Runner

TOKENS = 2**14  # columns of all rows of a batch's cache that are always allowed
LOGITS = 2**26  # float32 logits of a batch that are in memory at once
CACHE = 2**28  # bytes of a batch's cache on a CPU
ROOM = 0.25  # part of an accelerator's free memory for a batch's cache


class PromptSize(NamedTuple):
    """How much of a batch one prompt needs."""

    tokens: int
    """Columns of the cache for the prompt, the text before it unless rows share that, and the draft."""
    draft: int
    """Most tokens of a draft that are read in one step."""
    room: int
    """Columns of the cache for the answer."""


def grouped(
    sizes: Sequence[PromptSize],
    batch: int,
    max_columns: int,
    vocabulary: int,
    texts: Sequence[object],
    one_text: bool,
    one_length: bool,
) -> Iterator[list[int]]:
    """Yields groups of at most `batch` prompt numbers. The prompts of a group have similar lengths.

    A group takes at most `max_columns` columns of a cache and `LOGITS` logits; a group of one prompt is always allowed.
    Prompts with the same text before them stand next to each other. With `one_text` a group has one text, and with
    `one_length` prompts of one length.
    """
    first = {id(text): i for i, text in reversed([*enumerate(texts)])}
    text_number = [first[id(text)] for text in texts]
    group: list[int] = []
    longest_draft = largest_room = 0
    for i in sorted(range(len(sizes)), key=lambda i: (text_number[i] if one_text else 0, sizes[i].tokens)):
        tokens, draft, room = sizes[i]
        longest_draft, largest_room, count = max(longest_draft, draft), max(largest_room, room), len(group) + 1
        fits = (
            count * (tokens + largest_room) <= max_columns
            and count * (longest_draft + 1) * vocabulary <= LOGITS
            and count <= batch
        )
        other_text = one_text and group and text_number[i] != text_number[group[0]]
        if group and (not fits or other_text or (one_length and tokens != sizes[group[0]].tokens)):
            yield sorted(group, key=lambda i: text_number[i])
            group, longest_draft, largest_room = [], draft, room
        group.append(i)
    if group:
        yield sorted(group, key=lambda i: text_number[i])


def columns(model: Model) -> int:
    """Columns of all rows that a batch's cache may have: as many as fit in `CACHE`, or in a part of an accelerator's
    free memory, and at least `TOKENS`."""
    config: Any = model.network.config.get_text_config()
    layers, heads = getattr(config, "num_hidden_layers", None), getattr(config, "num_attention_heads", None)
    kv_heads, head_width = getattr(config, "num_key_value_heads", None) or heads, getattr(config, "head_dim", None)
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(kv_heads, int)):
        return TOKENS  # some configurations have a number for each layer, or none
    column_bytes = 2 * layers * kv_heads * (head_width or config.hidden_size // heads) * model.network.dtype.itemsize
    cache_bytes = torch.cuda.mem_get_info(model.device)[0] * ROOM if model.device.type == "cuda" else CACHE
    return max(TOKENS, int(cache_bytes / column_bytes))


def runner_columns(runner: Runner) -> int:
    """Columns of all rows that a batch's cache may have with any runner."""
    return max(TOKENS, CACHE // runner.token_bytes)
