"""Noise on embeddings is a function of seed, step and example: not of the batch, nor of its padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stillhouse.models import Model
from stillhouse.train._batches import Batch, batches
from stillhouse.train._noise import noisy

from .test_batches import CPU, source


def embedded(model: Model, data: Batch, amount: float, step: int = 3, seed: int = 0) -> Tensor:
    with noisy(model, data, amount, seed, step):
        found: Tensor = model.network.get_input_embeddings()(data.ids_BT)
        return found


def test_a_row_gets_the_noise_it_gets_alone(shipped: Model) -> None:
    (alone,) = batches({0: source()}, 3, 0, CPU)
    (together,) = batches({0: source(), 2: source(9, seed=4)}, 3, 0, CPU)
    rows = [i for i, slot in enumerate(together.slots) if slot == 0]
    mine_BTH = embedded(shipped, together, 0.5)[rows][:, : alone.ids_BT.shape[1]]
    assert torch.equal(mine_BTH, embedded(shipped, alone, 0.5))


def test_noise_stays_within_its_amount_and_off_the_padding(shipped: Model) -> None:
    (data,) = batches({0: source()}, 3, 0, CPU)
    plain_BTH, moved_BTH = embedded(shipped, data, 0.0), embedded(shipped, data, 0.5)
    assert torch.equal(plain_BTH, shipped.network.get_input_embeddings()(data.ids_BT))
    for plain_TH, moved_TH, length in zip(plain_BTH, moved_BTH, data.mask_BT.sum(1).tolist(), strict=True):
        moved = (moved_TH - plain_TH).float().abs()
        assert 0 < float(moved[:length].max()) <= 0.5 * float(plain_TH[:length].float().std()) * 1.02  # bfloat16
        assert float(moved[length:].sum()) == 0


@pytest.mark.parametrize(("step", "seed"), [(4, 0), (3, 1)])
def test_another_step_or_seed_is_other_noise(shipped: Model, step: int, seed: int) -> None:
    (data,) = batches({0: source()}, 3, 0, CPU)
    assert not torch.equal(embedded(shipped, data, 0.5), embedded(shipped, data, 0.5, step, seed))
    assert torch.equal(embedded(shipped, data, 0.5), embedded(shipped, data, 0.5))
