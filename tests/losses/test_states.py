"""Distances of inner states against their dense twins in float64, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from stillhouse.losses import SparseTargets, dense_forward_kl
from stillhouse.losses.states import hidden_distance, routing_divergence


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_hidden_distance_is_its_dense_twin(chunk: int) -> None:
    torch.manual_seed(0)
    student = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    teacher, weight = torch.randn(7, 9, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    project = torch.nn.Linear(5, 9, bias=False, dtype=torch.float64)
    project.weight = torch.nn.Parameter(weight.detach().clone())
    found = hidden_distance(student, teacher, project, chunk)
    dense = (student @ weight.T - teacher).square().sum(-1) / teacher.square().sum(-1)
    torch.testing.assert_close(found, dense, rtol=1e-6, atol=0)
    ours = torch.autograd.grad((found * torch.arange(7)).sum(), [student, project.weight])
    theirs = torch.autograd.grad((dense * torch.arange(7)).sum(), [student, weight])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)
    assert float(hidden_distance(teacher, teacher, torch.nn.Identity()).max()) < 1e-12


def test_routing_divergence_is_its_dense_twin_with_every_expert_kept() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 8, dtype=torch.float64).log_softmax(-1)
    top, ids = teacher.topk(8, -1)
    none = top.new_zeros(6, 0)
    found = routing_divergence(logits, SparseTargets(ids, top, top.new_zeros(6), none.long(), none, none))
    dense = dense_forward_kl(logits, teacher)
    torch.testing.assert_close(found, dense, rtol=1e-6, atol=1e-9)
    ours, theirs = (torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (found, dense))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    few = SparseTargets(ids[:, :3], top[:, :3], 1 - top[:, :3].exp().sum(-1), none.long(), none, none)
    assert bool((routing_divergence(logits, few) <= dense + 1e-6).all()), "experts that were not kept are one more"
