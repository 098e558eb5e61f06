"""Noise on the embeddings of what a student reads, so that other wordings are still near enough to what it learned.

In: the step's batch. Out: a context in which the network's input embeddings carry uniform noise (NEFTune, Jain et al.
2023, arXiv 2310.05914). Here it is relative to each token's own spread and not to its row's length, because rows are
short. A token's noise depends on the seed, the step and the first of its slot's examples that begins the same. It
depends neither on the other rows of the batch nor on padding, and rows that begin the same stay the same so far.

It does not know what is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import crc32

import torch
from torch import Tensor, nn

from ...models import Model
from .batches import AdapterBatch, Begun


@contextmanager
def noisy(
    model: Model, data: AdapterBatch, amount: float, seed: int, step: int, flat: Sequence[int] | None = None
) -> Iterator[None]:
    """Inside, embeddings of `data` are moved by up to `amount` standard deviations of their token's own values.

    `flat`: the network is given these tokens of the rows, numbered row after row without padding, and maybe others
    behind them.
    """
    if not amount:
        yield
        return

    def add(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        moved_TH = embedded.flatten(0, 1).clone()
        noise_NH = _drawn(data, amount, f"{seed}/{step}", moved_TH)
        if flat is None:
            width = embedded.shape[1]
            at = [row * width + n for row, length in enumerate(data.lengths) for n in range(length)]
            place_N = torch.tensor(at, device=moved_TH.device)
        else:
            noise_NH = noise_NH[torch.tensor(flat, device=moved_TH.device)]
            place_N = torch.arange(len(flat), device=moved_TH.device)
        own_NH = moved_TH[place_N].float()
        moved_TH[place_N] = (own_NH + noise_NH * own_NH.std(-1, keepdim=True)).to(moved_TH.dtype)
        return moved_TH.view_as(embedded)

    undo = model.network.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        undo.remove()


def _drawn(data: AdapterBatch, amount: float, seed: str, like: Tensor) -> Tensor:
    """Uniform noise up to `amount` for every token, row after row without padding."""
    starts: dict[Begun, int] = {}
    drawn: list[Tensor] = []
    tokens = 0
    for begun in dict.fromkeys(one for row in data.begun for one in row):
        generator = torch.Generator(like.device).manual_seed(crc32(f"{seed}/{begun.example}/noise".encode()))
        empty_LH = like.new_empty(begun.length, like.shape[1], dtype=torch.float32)
        drawn.append(empty_LH.uniform_(-amount, amount, generator=generator))
        starts[begun], tokens = tokens, tokens + begun.length
    at = [starts[begun] + n for row in data.begun for n, begun in enumerate(row)]
    return torch.cat(drawn)[torch.tensor(at, device=like.device)]
