"""Attention by plain matrix products: all query heads that share keys are one product with them.

In: queries, keys and values of a rectangle of rows, and optionally the keys and values of a text that all of them begin
with. Out: what each query takes from the values. Scores against the text are one product for all rows, scores against
a row's own keys another, and one softmax goes over both (Juravsky et al. 2024, arXiv 2402.05099). A copy of the text's
keys for each row would be most of what answering a few hundred questions about it costs. Scores are float32 and all
there at once, so rows and queries are taken in blocks.

It does not know caches. On a CPU it takes half of the time of torch's own for short rows, which repeats the keys for
every head.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCORES = 2**25  # values that are there at once, float32
Pair = tuple[Tensor, Tensor]


def grouped_attention(
    query_BHTD: Tensor, own: Pair, allowed_B1TS: Tensor, scale: float, text: Pair | None = None,
    allowed_text_B1TP: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`[B, T, H, D]`. Neighbouring H / G query heads share keys.

    `own`: each row's keys and values, `[B, G, S, D]`, looked at where `allowed_B1TS` is True (its B may be 1). `text`:
    keys and values of what all rows begin with, `[G, P, D]`. `allowed_text_B1TP`: where it is looked at; None: all.
    """
    (rows, heads, new, _), (keys_BGSD, values_BGSD) = query_BHTD.shape, own
    columns = keys_BGSD.shape[2] + (text[0].shape[1] if text else 0)
    tokens = max(1, min(new, SCORES // (heads * columns)))
    each = max(1, SCORES // (heads * tokens * columns))
    allowed_B1TS = allowed_B1TS.expand(rows, -1, -1, -1)

    def block(row: int, token: int) -> Tensor:
        some, part = slice(row, row + each), slice(token, token + tokens)
        allowed_text = None if allowed_text_B1TP is None else allowed_text_B1TP[some, :, part]
        query, own = query_BHTD[some, :, part], (keys_BGSD[some], values_BGSD[some])
        return _block(query, own, allowed_B1TS[some, :, part], scale, text, allowed_text).transpose(1, 2)

    if each >= rows and tokens >= new:
        return block(0, 0)
    return torch.cat([torch.cat([block(row, t) for t in range(0, new, tokens)], 1) for row in range(0, rows, each)])


def _block(
    query_BHTD: Tensor, own: Pair, allowed_B1TS: Tensor, scale: float, text: Pair | None, allowed_text: Tensor | None
) -> Tensor:
    """`[B, H, T, D]`."""
    (rows, heads, new, dim), (keys_BGSD, values_BGSD) = query_BHTD.shape, own
    groups = keys_BGSD.shape[1]
    exact = torch.float32 if query_BHTD.device.type == "cpu" else query_BHTD.dtype  # of the second product
    with torch.autocast(query_BHTD.device.type, enabled=False):
        query_BGYD = query_BHTD.float().mul(scale).reshape(rows, groups, heads // groups * new, dim)
        scores_BGYX = query_BGYD @ keys_BGSD.float().mT
        before = 0 if text is None else text[0].shape[1]
        if text is not None:
            scores_BGYX = torch.cat([_across_rows(query_BGYD, text[0].float().mT), scores_BGYX], -1)
        scores_BHTX = scores_BGYX.view(rows, heads, new, -1)
        scores_BHTX[..., before:].masked_fill_(~allowed_B1TS, -torch.inf)
        if allowed_text is not None:
            scores_BHTX[..., :before].masked_fill_(~allowed_text, -torch.inf)
        weights_BGYX = scores_BHTX.softmax(-1).to(exact).view(rows, groups, heads // groups * new, -1)
        out_BGYD = weights_BGYX[..., before:] @ values_BGSD.to(exact)
        if text is not None:
            out_BGYD = out_BGYD + _across_rows(weights_BGYX[..., :before], text[1].to(exact))
    return out_BGYD.reshape(rows, heads, new, -1).to(query_BHTD.dtype)


def _across_rows(left_BGYX: Tensor, right_GXZ: Tensor) -> Tensor:
    """`[B, G, Y, Z]`: one product for all rows with what is the same for all."""
    rows, groups, each, _ = left_BGYX.shape
    left_GXX = left_BGYX.transpose(0, 1).reshape(groups, rows * each, -1)
    return torch.bmm(left_GXX, right_GXZ).view(groups, rows, each, -1).transpose(0, 1)
