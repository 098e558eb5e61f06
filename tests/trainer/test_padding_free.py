"""Rows side by side: the same losses and gradients as with padding, in every class whose attention can be replaced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stillhouse.compute import kernels as models_kernels
from stillhouse.compute.fused import between
from stillhouse.generate import head
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.losses import chunked_forward_kl
from stillhouse.models import Model
from stillhouse.train.adapter.anchors import Reference, anchor_loss, anchors
from stillhouse.train.adapter.batches import ExampleSource, Mix, batches
from stillhouse.train.adapter.forward import Forward
from stillhouse.trainer import padding_free
from tests.train.adapter.test_student import CONFIG, signals

Make = Callable[..., Model]
MIX = Mix({"fact": 3, "unknown": 2, "anchor": 1}, {"fact": 1.0, "unknown": 0.5, "anchor": 0.5}, 2)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name", ["gemma3", "llama", "olmoe", "qwen3", "qwen3_moe"])
def test_losses_and_gradients_are_those_of_padded_rows(
    name: str, kernels: bool, random_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(models_kernels, "library", lambda: None)
    model, slots = random_model(name), (0, 1)
    assert padding_free.fits(model)
    bank = AdapterBank(model.network, 2, LoraConfig(rank=4, alpha=8.0))
    for slot in slots:
        bank.reset(slot, slot)
    with torch.no_grad():
        for number, parameter in enumerate(bank.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    reference = Reference(model, anchors(model, 2, 16, 0.1, 2, 0), CONFIG.steps, CONFIG.batch_tokens)
    forward = Forward(model, bank, reference, CONFIG.tail, CONFIG.noise, CONFIG.seed)
    sources = {slot: ExampleSource(signals(model, slot + 1), MIX, slot, model.device) for slot in slots}
    (data,) = batches(sources, 1, 0, model.device)
    assert len(set(data.first)) < sum(data.lengths), "some rows begin the same"
    with between(model.network):
        loss_P, drift_S = forward.losses(data, slots, 1)
        flat = gradients(bank, (loss_P * data.weight_P).sum() + drift_S.sum())
    monkeypatch.setattr(models_kernels, "library", lambda: None)
    hidden_PH = forward.padded(data, 1)
    other_P = chunked_forward_kl(hidden_PH, head(model), data.targets, CONFIG.tail)
    other_S = anchor_loss(model, bank, slots, reference, 1)
    padded = gradients(bank, (other_P * data.weight_P).sum() + other_S.sum())
    bank.detach()
    torch.testing.assert_close(loss_P, other_P, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drift_S, other_S, rtol=1e-4, atol=1e-6)
    for one, another in zip(flat, padded, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-3, atol=1e-5)


def gradients(bank: AdapterBank, loss: Tensor) -> list[Tensor]:
    for parameter in bank.parameters():
        parameter.grad = None
    loss.backward()
    return [p.grad.clone() for p in bank.parameters() if p.grad is not None]
