"""Noise on embeddings is a function of seed, step and how an example begins: not of the batch, nor of its padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stillhouse.models import Model
from stillhouse.train.adapter.batches import AdapterBatch, ExampleSource, batches
from stillhouse.train.adapter.noise import noisy

from .test_batches import CPU, MIX, alike, source


def embedded(model: Model, data: AdapterBatch, amount: float, step: int = 3, seed: int = 0) -> Tensor:
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
        moved_T = (moved_TH - plain_TH).float().abs().amax(-1)
        most_T = 0.5 * plain_TH.float().std(-1) * 1.02  # bfloat16
        assert bool((moved_T[:length] > 0).all()) and bool((moved_T[:length] <= most_T[:length]).all())
        assert float(moved_T[length:].sum()) == 0


@pytest.mark.parametrize(("step", "seed"), [(4, 0), (3, 1)])
def test_another_step_or_seed_is_other_noise(shipped: Model, step: int, seed: int) -> None:
    (data,) = batches({0: source()}, 3, 0, CPU)
    assert not torch.equal(embedded(shipped, data, 0.5), embedded(shipped, data, 0.5, step, seed))
    assert torch.equal(embedded(shipped, data, 0.5), embedded(shipped, data, 0.5))


def test_what_begins_the_same_stays_the_same_in_batches_of_any_size(shipped: Model) -> None:
    sources = {0: ExampleSource(alike(), MIX, 0, CPU), 1: source()}
    (whole,) = batches(sources, 3, 0, CPU)
    moved_BTH = embedded(shipped, whole, 0.5)
    flat_NH = torch.cat([row_TH[:length] for row_TH, length in zip(moved_BTH, whole.lengths, strict=True)])
    assert torch.equal(flat_NH, flat_NH[whole.first])
    assert len(set(whole.first)) < len(whole.first)
    together = {(slot, e): row_TH for slot, e, row_TH in zip(whole.slots, whole.examples, moved_BTH, strict=True)}
    parts = batches(sources, 3, 0, CPU, tokens=32)
    assert len(parts) > 2
    for part in parts:
        found = zip(part.slots, part.examples, part.lengths, embedded(shipped, part, 0.5), strict=True)
        for slot, example, length, row_TH in found:
            assert torch.equal(row_TH[:length], together[slot, example][:length])


def test_tokens_that_lie_side_by_side_get_the_noise_they_get_in_rows(shipped: Model) -> None:
    (data,) = batches({0: ExampleSource(alike(), MIX, 0, CPU)}, 3, 0, CPU)
    rows_BTH = embedded(shipped, data, 0.5)
    expected_NH = torch.cat([row_TH[:length] for row_TH, length in zip(rows_BTH, data.lengths, strict=True)])
    own = sorted(set(data.first))
    ids_U1 = data.ids_BT[data.mask_BT.bool()][own + own[:1]][:, None]
    with noisy(shipped, data, 0.5, 0, 3, flat=own):
        found_U1H = shipped.network.get_input_embeddings()(ids_U1)
    assert torch.equal(found_U1H[:-1, 0], expected_NH[own])
    assert not torch.equal(found_U1H[-1], found_U1H[0]), "what is not of the rows has none"
