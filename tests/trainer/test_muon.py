"""Muon: matrices with singular values of one, each slot's by itself, whatever the width."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.trainer.muon import Muon, orthogonal

Make = Callable[..., Model]


def test_the_nearest_matrix_with_orthonormal_rows() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(5, 4, 24)
    found = orthogonal(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(found, left @ right, atol=2e-3, rtol=0)  # damped by 1 %
    torch.testing.assert_close(orthogonal(1e-12 * matrices), found, atol=1e-4, rtol=0)
    assert not orthogonal(torch.zeros(2, 4, 24)).any()


def test_a_direction_far_below_the_largest_is_taken_for_noise() -> None:
    matrix = torch.zeros(1, 2, 8)
    matrix[0, 0, 0], matrix[0, 1, 1] = 1.0, 1e-5
    found = orthogonal(matrix)[0]
    assert found[0, 0] > 0.99
    assert found[1, 1] < 0.01


def test_a_slot_moves_as_it_would_alone(random_model: Make) -> None:
    model = random_model("qwen3_moe")
    moved = []
    for slots in (3, 1):
        bank = AdapterBank(model.network, slots, LoraConfig(4, 8.0))
        try:
            torch.manual_seed(1)
            optimizer = Muon(bank.sites)
            for _ in range(2):
                for p in bank.parameters():
                    p.grad = torch.randn(p.shape[1:]).expand(p.shape).clone()
                    p.grad[1:] *= 1e3
                optimizer.step([1e-2] * slots)
            assert all(p.grad is None for p in bank.parameters())
            moved.append([p.detach()[0].clone() for p in bank.parameters()])
        finally:
            bank.detach()
    for together, alone in zip(*moved, strict=True):
        torch.testing.assert_close(together, alone)


def test_a_slot_without_a_learning_rate_stays(random_model: Make) -> None:
    bank = AdapterBank(random_model("llama").network, 2, LoraConfig(4, 8.0))
    try:
        for p in bank.parameters():
            p.grad = torch.ones_like(p)
        Muon(bank.sites).step([1e-2, 0.0])
        assert all(p[0].any() and not p[1].any() for p in bank.parameters())
    finally:
        bank.detach()


def test_a_site_without_gradients_stays(random_model: Make) -> None:
    bank = AdapterBank(random_model("llama").network, 1, LoraConfig(4, 8.0))
    try:
        first, *others = bank.sites
        first.a.grad, first.b.grad = torch.ones_like(first.a), torch.ones_like(first.b)
        Muon(bank.sites).step([1e-2])
        assert first.a.any()
        assert first.b.any()
        assert not any(p.any() for site in others for p in (site.a, site.b))
    finally:
        bank.detach()
