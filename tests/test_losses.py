"""Sparse losses against their dense twins in float64, the unbiasedness of tail draws, and extremes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stillhouse.errors import InputError
from stillhouse.losses import (
    SparseTargets,
    Tail,
    chunked_forward_kl,
    dense_forward_kl,
    sparse_forward_kl,
    sparsify,
)

TAILS: tuple[Tail, ...] = get_args(Tail)


def pair(positions: int, vocabulary: int, seed: int = 0, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Student logits and teacher log-probabilities, float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, positions, vocabulary, generator=generator, dtype=torch.float64)
    return logits[0], logits[1].log_softmax(-1)


def gradient(loss_P: Tensor, inputs: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss_P.sum(), inputs)
    return found


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("spread", [0.1, 2.0, 20.0])
def test_with_every_token_kept_the_loss_and_its_gradient_are_the_dense_ones(tail: Tail, spread: float) -> None:
    logits_PV, teacher_PV = pair(7, 50, spread=spread)
    logits_PV.requires_grad_()
    top_PK, ids_PK = teacher_PV.topk(50)
    none = torch.zeros(7, 0)
    targets = SparseTargets(ids_PK, top_PK, torch.zeros(7), none.long(), none, none)
    sparse_P, dense_P = sparse_forward_kl(logits_PV, targets, tail), dense_forward_kl(logits_PV, teacher_PV)
    torch.testing.assert_close(sparse_P, dense_P, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(gradient(sparse_P, logits_PV), gradient(dense_P, logits_PV), rtol=1e-6, atol=1e-12)


def test_dense_loss_is_torchs_kl_divergence() -> None:
    logits_PV, teacher_PV = pair(7, 50)
    expected_P = torch.nn.functional.kl_div(logits_PV.log_softmax(-1), teacher_PV, log_target=True, reduction="none")
    torch.testing.assert_close(dense_forward_kl(logits_PV, teacher_PV), expected_P.sum(-1))


def test_sampled_is_unbiased_in_value_and_gradient() -> None:
    runs = 4000
    logits_PV, teacher_PV = pair(1, 40, spread=1.0)
    many_PV = logits_PV.expand(runs, -1).clone().requires_grad_()
    targets = sparsify(teacher_PV.expand(runs, -1), k=4, draws=3, generator=torch.Generator().manual_seed(1))
    loss_P = sparse_forward_kl(many_PV, targets, "sampled")
    dense = dense_forward_kl(logits_PV, teacher_PV).item()
    error = loss_P.std().item() / runs**0.5
    assert abs(loss_P.mean().item() - dense) < 3 * error
    assert error < 0.05 * dense, "the test would see nothing"
    one_PV = logits_PV.clone().requires_grad_()
    dense_V = gradient(dense_forward_kl(one_PV, teacher_PV), one_PV)[0]
    drawn_PV = gradient(loss_P, many_PV)
    z_V = (drawn_PV.mean(0) - dense_V) / (drawn_PV.std(0) / runs**0.5 + 1e-6)  # float32 rounds the exact ones
    assert (z_V.abs() < 4).all() and (z_V.abs() < 3).float().mean() > 0.95


def test_dropping_the_tail_is_biased_where_drawing_it_is_not() -> None:
    _, teacher_PV = pair(1, 40, spread=1.0)
    targets = sparsify(teacher_PV, k=4, draws=2000, generator=torch.Generator().manual_seed(1))
    at_teacher_PV = teacher_PV.clone().requires_grad_()
    pull = {
        tail: gradient(sparse_forward_kl(at_teacher_PV, targets, tail), at_teacher_PV).abs().max() for tail in TAILS
    }
    assert pull["sampled"] < 0.01 and pull["ghost"] < 1e-6
    assert pull["renormalise"] > 0.1 and pull["drop"] > 0.05


def test_ghost_is_a_lower_bound_and_exact_for_a_tail_of_one_token() -> None:
    logits_PV, teacher_PV = pair(9, 30)
    dense_P = dense_forward_kl(logits_PV, teacher_PV)
    assert (sparse_forward_kl(logits_PV, sparsify(teacher_PV, 5, 0), "ghost") <= dense_P + 1e-9).all()
    torch.testing.assert_close(
        sparse_forward_kl(logits_PV, sparsify(teacher_PV, 29, 0), "ghost"), dense_P, rtol=1e-5, atol=1e-6
    )


@given(st.integers(1, 12), st.integers(0, 4), st.integers(0, 1000))
def test_sparsify_accounts_for_all_mass(k: int, draws: int, seed: int) -> None:
    _, teacher_PV = pair(3, 10, seed)
    targets = sparsify(teacher_PV, k, draws, torch.Generator().manual_seed(seed))
    total_P = targets.logprobs_PK.exp().sum(-1) + targets.tail_P
    torch.testing.assert_close(total_P, torch.ones(3), rtol=0, atol=1e-6)
    assert targets.ids_PK.shape == (3, min(k, 10)) and targets.draw_ids_PD.shape == (3, draws)
    if draws:
        torch.testing.assert_close(targets.draw_weights_PD.sum(-1), targets.tail_P)
        drawn_in_top = (targets.draw_ids_PD[:, :, None] == targets.ids_PK[:, None]).any(-1)
        assert not (drawn_in_top & (targets.draw_weights_PD > 0)).any()
        own_PD = teacher_PV.gather(-1, targets.draw_ids_PD).float()
        torch.testing.assert_close(targets.draw_logprobs_PD, own_PD.where(targets.draw_weights_PD > 0, 0))


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
def test_extreme_logits_and_empty_tails_stay_finite(tail: Tail, size: float) -> None:
    logits_PV = (torch.randn(6, 20) * size).requires_grad_()
    teacher_PV = (torch.randn(6, 20) * 100).log_softmax(-1)
    teacher_PV[0] = float("-inf")
    teacher_PV[0, 3] = 0.0  # one-hot: everything else is impossible
    targets = sparsify(teacher_PV, k=4, draws=2, generator=torch.Generator().manual_seed(0))
    loss_P = sparse_forward_kl(logits_PV, targets, tail)
    assert loss_P.isfinite().all() and gradient(loss_P, logits_PV).isfinite().all()
    assert (targets.tail_P == 0).any() and targets.ids_PK[0].tolist() == [3, 0, 0, 0]


def test_a_one_hot_teacher_gives_cross_entropy() -> None:
    logits_PV = torch.randn(5, 20)
    ids_P = torch.randint(20, (5,))
    none = torch.zeros(5, 0)
    padded_PK = torch.tensor([[0.0, float("-inf")]]).expand(5, -1)
    targets = SparseTargets(torch.stack([ids_P, 0 * ids_P], 1), padded_PK, torch.zeros(5), none.long(), none, none)
    expected_P = torch.nn.functional.cross_entropy(logits_PV, ids_P, reduction="none")
    for tail in TAILS:
        torch.testing.assert_close(sparse_forward_kl(logits_PV, targets, tail), expected_P)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("positions", [0, 1, 8, 21])
def test_chunks_change_neither_loss_nor_gradients_and_never_see_all_positions(tail: Tail, positions: int) -> None:
    head = torch.nn.Linear(12, 30)
    seen: list[int] = []

    def watched(hidden_pH: Tensor) -> Tensor:
        seen.append(len(hidden_pH))
        logits: Tensor = head(hidden_pH)
        return logits

    hidden_PH = torch.randn(positions, 12, requires_grad=True)
    targets = sparsify(torch.randn(positions, 30).log_softmax(-1), 5, 3, torch.Generator().manual_seed(0))
    whole_P, chunked_P = (
        sparse_forward_kl(head(hidden_PH), targets, tail),
        chunked_forward_kl(hidden_PH, watched, targets, tail, 8),
    )
    torch.testing.assert_close(chunked_P, whole_P)
    torch.testing.assert_close(gradient(chunked_P, hidden_PH), gradient(whole_P, hidden_PH))
    assert max(seen) <= 8
    with torch.no_grad():
        torch.testing.assert_close(chunked_forward_kl(hidden_PH, watched, targets, tail, 8), whole_P.detach())


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits_PV, teacher_PV = pair(4, 30)
    targets = sparsify(teacher_PV, 8, 2, torch.Generator().manual_seed(0))
    rounded_PV = logits_PV.bfloat16()
    found_P = sparse_forward_kl(rounded_PV, targets)
    assert found_P.dtype == torch.float32
    torch.testing.assert_close(found_P, sparse_forward_kl(rounded_PV.double(), targets).float(), rtol=1e-5, atol=1e-5)


def test_wrong_use_is_one_clear_line() -> None:
    targets = sparsify(torch.randn(2, 30).log_softmax(-1), 30, 0)
    with pytest.raises(InputError, match="target id 29 is outside the student's vocabulary of 20"):
        sparse_forward_kl(torch.randn(2, 20), targets)
    with pytest.raises(InputError, match="k = 0"):
        sparsify(torch.randn(2, 30).log_softmax(-1), 0, 0)
    with pytest.raises(InputError, match="chunk: 0"):
        chunked_forward_kl(torch.randn(2, 4), torch.nn.Linear(4, 30), targets, chunk=0)
