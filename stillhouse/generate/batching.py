"""Which prompts are answered in one batch: as many as fit, of similar length.

In: what every prompt takes, and the text it stands behind. Out: groups of prompt numbers. It does not know tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ..models import Model
from ..runners import Runner

TOKENS, LOGITS = 2**14, 2**26  # of a batch: columns of its cache, and float32 values over the vocabulary at once
CACHE, ROOM = 2**28, 0.25  # bytes of a batch's cache, or the part of an accelerator's free memory


class Row(NamedTuple):
    """What a prompt takes: columns of a cache, those of them that are a draft, and room for its answer."""

    tokens: int
    draft: int
    room: int


def grouped(
    rows: Sequence[Row],
    batch: int,
    most: int,
    vocabulary: int,
    texts: Sequence[object],
    one_text: bool,
    one_length: bool,
) -> Iterator[list[int]]:
    """Prompt numbers in groups of at most `batch`, of similar length or of one, within `most` columns of a cache and
    what logits may take; one prompt always fits. Those of one prefix are beside each other, and in groups of their own
    if need be."""
    first = {id(text): i for i, text in reversed([*enumerate(texts)])}
    place = [first[id(text)] for text in texts]
    group: list[int] = []
    ahead = new = 0
    for i in sorted(range(len(rows)), key=lambda i: (place[i] if one_text else 0, rows[i].tokens)):
        tokens, draft, room = rows[i]
        ahead, new, many = max(ahead, draft), max(new, room), len(group) + 1
        fits = many * (tokens + new) <= most and many * (ahead + 1) * vocabulary <= LOGITS and many <= batch
        other = one_text and group and place[i] != place[group[0]]
        if group and (not fits or other or (one_length and tokens != rows[group[0]].tokens)):
            yield sorted(group, key=lambda i: place[i])
            group, ahead, new = [], draft, room
        group.append(i)
    if group:
        yield sorted(group, key=lambda i: place[i])


def columns(model: Model) -> int:
    """How many columns a batch's cache may have: `TOKENS`, or as many as fit in `CACHE` or in a part of an
    accelerator's memory."""
    config: Any = model.network.config.get_text_config()
    layers, heads = getattr(config, "num_hidden_layers", None), getattr(config, "num_attention_heads", None)
    shared, dim = getattr(config, "num_key_value_heads", None) or heads, getattr(config, "head_dim", None)
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(shared, int)):
        return TOKENS  # another one in every layer, or none
    each = 2 * layers * shared * (dim or config.hidden_size // heads) * model.network.dtype.itemsize
    there = torch.cuda.mem_get_info(model.device)[0] * ROOM if model.device.type == "cuda" else CACHE
    return max(TOKENS, int(there / each))


def runner_columns(runner: Runner) -> int:
    """The same for any runner."""
    return max(TOKENS, CACHE // runner.token_bytes)
