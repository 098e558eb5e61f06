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
    Divergence,
    Objective,
    SparseTargets,
    Tail,
    chunked,
    chunked_forward_kl,
    dense_forward_kl,
    distillation_loss,
    sparse_divergence,
    sparse_forward_kl,
    through_head,
)
from stillhouse.losses.head import logprobs_at
from stillhouse.signals.sparsify import sparsify

TAILS: tuple[Tail, ...] = get_args(Tail)
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)


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


def test_dense_kl_is_autograds_own_also_where_a_teacher_gives_nothing() -> None:
    logits_PV = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher_PV = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    teacher_PV[2, 3:7] = -torch.inf
    teacher_PV = teacher_PV.log_softmax(-1)
    assert torch.autograd.gradcheck(lambda x: dense_forward_kl(x, teacher_PV), logits_PV)
    p_PV = teacher_PV.exp()
    apart_PV = p_PV * (teacher_PV - logits_PV.log_softmax(-1))
    torch.testing.assert_close(dense_forward_kl(logits_PV, teacher_PV), apart_PV.nan_to_num(0).sum(-1))


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


def test_steadied_has_the_value_of_sampled_and_a_gradient_with_less_noise_that_is_right_on_average() -> None:
    runs = 4000
    teacher_PV = pair(1, 40, spread=1.0)[1]
    logits_PV = teacher_PV + 0.2 * pair(1, 40, seed=5, spread=1.0)[0]  # a student that knows most already
    many_PV = logits_PV.expand(runs, -1).clone().requires_grad_()
    targets = sparsify(teacher_PV.expand(runs, -1), k=4, draws=3, generator=torch.Generator().manual_seed(1))
    losses = {tail: sparse_forward_kl(many_PV, targets, tail) for tail in ("steadied", "sampled")}
    torch.testing.assert_close(losses["steadied"], losses["sampled"])
    steadied_PV, sampled_PV = (gradient(loss_P, many_PV) for loss_P in losses.values())
    z_V = (steadied_PV - sampled_PV).mean(0) / ((steadied_PV - sampled_PV).std(0) / runs**0.5 + 1e-6)
    assert (z_V.abs() < 4).all()
    assert steadied_PV.var(0).sum() < 0.7 * sampled_PV.var(0).sum()


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


def dense_divergence(logits_PV: Tensor, teacher_PV: Tensor, divergence: Divergence, beta: float = 0.5) -> Tensor:
    """The textbook sums over the whole vocabulary, float64."""
    q_PV = logits_PV.log_softmax(-1)
    if divergence == "forward":
        return (teacher_PV.exp() * (teacher_PV - q_PV)).sum(-1)
    if divergence == "reverse":
        return (q_PV.exp() * (q_PV - teacher_PV)).sum(-1)
    m_PV = (beta * teacher_PV.exp() + (1 - beta) * q_PV.exp()).log()
    left_P = (teacher_PV.exp() * (teacher_PV - m_PV)).sum(-1)
    return beta * left_P + (1 - beta) * (q_PV.exp() * (q_PV - m_PV)).sum(-1)


def dense_loss(logits_PV: Tensor, teacher_PV: Tensor, labels_P: Tensor, o: Objective) -> Tensor:
    """`alpha T^2 D(teacher_T, student_T) + (1 - alpha) CE`, float64, nothing sparse about it."""
    softened_PV = (teacher_PV / o.temperature).log_softmax(-1)
    apart_P = dense_divergence(logits_PV / o.temperature, softened_PV, o.divergence, o.beta)
    entropy_P = -logits_PV.log_softmax(-1).gather(-1, labels_P[:, None])[:, 0]
    return o.alpha * o.temperature**2 * apart_P + (1 - o.alpha) * entropy_P


def whole(teacher_PV: Tensor) -> SparseTargets:
    """Every entry kept, no tail."""
    top_PK, ids_PK = teacher_PV.topk(teacher_PV.shape[-1])
    none = torch.zeros(len(teacher_PV), 0)
    return SparseTargets(ids_PK, top_PK, torch.zeros(len(teacher_PV)), none.long(), none, none)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (2.0, 0.7), (0.5, 0.3), (4.0, 0.0)])
@pytest.mark.parametrize("spread", [0.1, 2.0, 10.0])
def test_every_objective_with_every_token_kept_is_its_dense_twin(
    divergence: Divergence, tail: Tail, temperature: float, alpha: float, spread: float
) -> None:
    logits_PV, teacher_PV = pair(7, 50, spread=spread)
    labels_P = torch.randint(50, (7,))
    logits_PV.requires_grad_()
    objective = Objective(divergence, tail, temperature, alpha, beta=0.3)
    sparse_P = distillation_loss(logits_PV, whole(teacher_PV), labels_P, objective)
    dense_P = dense_loss(logits_PV, teacher_PV, labels_P, objective)
    torch.testing.assert_close(sparse_P, dense_P, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(gradient(sparse_P, logits_PV), gradient(dense_P, logits_PV), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_draws_are_unbiased_for_every_divergence(divergence: Divergence) -> None:
    runs = 4000
    logits_PV, teacher_PV = pair(1, 40, spread=0.7)
    many_PV = logits_PV.expand(runs, -1).clone().requires_grad_()
    targets = sparsify(teacher_PV.expand(runs, -1), k=4, draws=3, generator=torch.Generator().manual_seed(1))
    loss_P = sparse_divergence(many_PV, targets, divergence)
    dense = dense_divergence(logits_PV, teacher_PV, divergence).item()
    error = loss_P.std().item() / runs**0.5
    assert abs(loss_P.mean().item() - dense) < 3.5 * error and error < 0.1 * dense
    one_PV = logits_PV.clone().requires_grad_()
    dense_V = gradient(dense_divergence(one_PV, teacher_PV, divergence), one_PV)[0]
    drawn_PV = gradient(loss_P, many_PV)
    z_V = (drawn_PV.mean(0) - dense_V) / (drawn_PV.std(0) / runs**0.5 + 1e-6)
    assert (z_V.abs() < 4.5).all() and (z_V.abs() < 3).float().mean() > 0.9


@pytest.mark.parametrize("divergence", ["reverse", "jsd"])
@pytest.mark.parametrize("tail", ["sampled", "ghost", "drop"])
def test_a_confident_teacher_without_draws_is_where_the_student_stays(divergence: Divergence, tail: Tail) -> None:
    """The bare terms of the reverse KL would pull the kept token down to p/e."""
    teacher_PV = torch.tensor([[12.0, 1.0, 0.5, 0.0, -1.0]]).log_softmax(-1)
    at_teacher_PV = teacher_PV.clone().requires_grad_()
    targets = sparsify(teacher_PV, k=1, draws=0)
    loss_P = sparse_divergence(at_teacher_PV, targets, divergence, tail)
    assert gradient(loss_P, at_teacher_PV).abs().max() < 1e-4


def test_temperature_is_estimated_from_the_draws() -> None:
    logits_PV, teacher_PV = pair(1, 60, spread=1.0)
    targets = sparsify(teacher_PV, k=8, draws=400_000, generator=torch.Generator().manual_seed(0))
    for divergence in DIVERGENCES:
        objective = Objective(divergence, temperature=2.0)
        found = distillation_loss(logits_PV, targets, torch.zeros(1).long(), objective)
        dense = dense_loss(logits_PV, teacher_PV, torch.zeros(1).long(), objective)
        torch.testing.assert_close(found, dense, rtol=0.02, atol=1e-3)


def test_what_the_student_has_mastered_counts_less() -> None:
    logits_PV, teacher_PV = pair(6, 30)
    logits_PV[0] = teacher_PV[0]
    targets, labels_P = whole(teacher_PV), torch.zeros(6).long()
    plain_P = distillation_loss(logits_PV, targets, labels_P, Objective(alpha=0.5))
    hard_P = distillation_loss(logits_PV, targets, labels_P, Objective(alpha=0.5, hard=3.0))
    first_P = (logits_PV.log_softmax(-1) - teacher_PV).gather(-1, targets.ids_PK[:, :1])[:, 0].exp()
    torch.testing.assert_close(hard_P / plain_P, 1 + 3 * (1 - first_P).clamp(min=0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(hard_P[0], plain_P[0])


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
def test_extremes_stay_finite_in_every_objective(divergence: Divergence, tail: Tail, size: float) -> None:
    logits_PV = (torch.randn(6, 20) * size).requires_grad_()
    teacher_PV = (torch.randn(6, 20) * 100).log_softmax(-1)
    teacher_PV[0] = float("-inf")
    teacher_PV[0, 3] = 0.0
    targets = sparsify(teacher_PV, k=4, draws=2, generator=torch.Generator().manual_seed(0))
    objective = Objective(divergence, tail, temperature=2.0, alpha=0.5, hard=1.0)
    loss_P = distillation_loss(logits_PV, targets, torch.zeros(6).long(), objective)
    assert loss_P.isfinite().all() and gradient(loss_P, logits_PV).isfinite().all()


@pytest.mark.parametrize("positions", [0, 1, 8, 21])
def test_chunks_change_nothing_for_a_whole_objective(positions: int) -> None:
    head = torch.nn.Linear(12, 30)
    hidden_PH = torch.randn(positions, 12, requires_grad=True)
    labels_P = torch.randint(30, (positions,))
    targets = sparsify(torch.randn(positions, 30).log_softmax(-1), 5, 3, torch.Generator().manual_seed(0))
    objective = Objective("jsd", temperature=2.0, alpha=0.6, hard=1.0)
    plain_P = distillation_loss(head(hidden_PH), targets, labels_P, objective)
    chunked_P = chunked(hidden_PH, head, targets, labels_P, objective, 8)
    torch.testing.assert_close(chunked_P, plain_P)
    torch.testing.assert_close(gradient(chunked_P, hidden_PH), gradient(plain_P, hidden_PH))


@pytest.mark.parametrize(
    "wrong",
    [{"divergence": "tvd"}, {"tail": "keep"}, {"temperature": 0.0}, {"temperature": float("nan")}, {"alpha": 1.5},
     {"beta": 0.0}, {"beta": 1.0}, {"hard": -1.0}],
)  # fmt: skip
def test_objectives_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(wrong))}: "):
        Objective(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("positions", [1, 8, 21])
def test_a_frozen_head_is_gone_through_once_and_a_learning_one_gets_its_gradient(frozen: bool, positions: int) -> None:
    head = torch.nn.Linear(12, 30).requires_grad_(not frozen)
    hidden_PH = torch.randn(positions, 12, requires_grad=True)
    weight_P2 = torch.randn(positions, 2)
    rows: list[int] = []

    def watched(hidden_pH: Tensor) -> Tensor:
        rows.append(len(hidden_pH))
        logits: Tensor = head(hidden_pH)
        return logits

    def part(logits_pV: Tensor, start: int) -> Tensor:
        return torch.stack([logits_pV.logsumexp(-1), logits_pV[:, 0] ** 2], -1)

    wanted = [hidden_PH, *(p for p in head.parameters() if p.requires_grad)]
    plain = torch.autograd.grad((weight_P2 * part(head(hidden_PH), 0)).sum(), wanted)
    chunked_P2 = through_head(hidden_PH, watched, part, 8)
    found = torch.autograd.grad((weight_P2 * chunked_P2).sum(), wanted)
    torch.testing.assert_close(found, plain)
    assert sum(rows) == positions * (1 if frozen or positions <= 8 else 2)


def test_log_probabilities_of_a_few_ids_and_their_gradient_are_log_softmaxs() -> None:
    logits_PV, _ = pair(5, 40, spread=30.0)
    logits_PV.requires_grad_()
    ids_PJ = torch.randint(40, (5, 6))  # the same id may come twice
    weight_PJ = torch.randn(5, 6, dtype=torch.float64)
    found_PJ, normaliser_P = logprobs_at(logits_PV, ids_PJ)
    expected_PJ, normalisers_P = logits_PV.log_softmax(-1).gather(-1, ids_PJ), logits_PV.logsumexp(-1)
    torch.testing.assert_close((found_PJ, normaliser_P), (expected_PJ, normalisers_P), rtol=1e-12, atol=1e-12)
    gradients = [
        gradient((weight_PJ * at_PJ).sum() + (normal_P**2).sum(), logits_PV)
        for at_PJ, normal_P in ((found_PJ, normaliser_P), (expected_PJ, normalisers_P))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
