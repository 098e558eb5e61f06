"""Noise on the embeddings of what a student reads, so that other wordings are still near enough to what it learned.

In: the step's batch. Out: a context in which the network's input embeddings carry uniform noise (NEFTune, Jain et al.
2023, arXiv 2310.05914; here relative to each row's own spread instead of to its length, for rows are short). A row's
noise depends on the seed, the step and the example alone: not on who else is in the batch, nor on its padding.

It does not know what is learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import torch
from torch import Tensor, nn

from ..models import Model
from ._batches import Batch


@contextmanager
def noisy(model: Model, data: Batch, amount: float, seed: int, step: int, flat: bool = False) -> Iterator[None]:
    """Inside: embeddings of `data` are moved by up to `amount` standard deviations of their row's own values. `flat`:
    the network is given the rows' tokens one after the other, without padding, and maybe others behind them."""
    if not amount:
        yield
        return

    def add(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        moved_TH = embedded.flatten(0, 1).clone()
        start = 0
        for row, (example, length) in enumerate(zip(data.examples, data.lengths, strict=True)):
            own_TH = moved_TH[start if flat else row * embedded.shape[1] :][:length]
            generator = torch.Generator(own_TH.device).manual_seed(crc32(f"{seed}/{step}/{example}/noise".encode()))
            noise_TH = torch.empty_like(own_TH, dtype=torch.float32).uniform_(-amount, amount, generator=generator)
            own_TH += (noise_TH * own_TH.float().std()).to(own_TH.dtype)
            start += length
        return moved_TH.view_as(embedded)

    undo = model.network.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        undo.remove()
