"""A distribution cut down to a few entries: exact where it says so, right on average elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stillhouse.losses import SparseTargets, dense_forward_kl, sparse_forward_kl
from stillhouse.signals.sparsify import BLOCK, COARSE, LEAST, LOGITS_BLOCK, WORTH, Sparsity, sparsify, sparsify_logits

USUAL = Sparsity(top_k=8, draws=16, share=0.054, keep=1e-3)


def reduced(logits_PV: Tensor, sparsity: Sparsity, seed: int = 0) -> tuple[SparseTargets, Tensor]:
    return sparsify_logits(logits_PV.clone(), sparsity, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vocabulary", [1, 7, 300, 2048, 4097])
def test_exact_entries_tail_and_normaliser_are_those_of_the_reference(vocabulary: int) -> None:
    logits_PV = 3 * torch.randn(6, vocabulary)
    found, normaliser_P = reduced(logits_PV, Sparsity(5, 16))
    expected = sparsify(logits_PV.log_softmax(-1), 5, 0)
    assert torch.equal(found.ids_PK, expected.ids_PK)
    torch.testing.assert_close(found.logprobs_PK, expected.logprobs_PK, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.tail_P, expected.tail_P, atol=1e-5, rtol=0)
    torch.testing.assert_close(normaliser_P, logits_PV.logsumexp(-1))


@given(st.integers(1, 12), st.integers(0, 9), st.sampled_from([0.0, 0.05, 0.3]), st.integers(0, 1000))
def test_mass_and_draws_add_up(top_k: int, draws: int, share: float, seed: int) -> None:
    logits_PV = 3 * torch.randn(4, 37, generator=torch.Generator().manual_seed(seed))
    found, _ = reduced(logits_PV, Sparsity(top_k, draws, share), seed)
    logprobs_PV = logits_PV.log_softmax(-1)
    kept_PK, used_PD = ~found.logprobs_PK.isneginf(), found.draw_weights_PD > 0
    torch.testing.assert_close(found.logprobs_PK.exp().sum(-1) + found.tail_P, torch.ones(4), atol=1e-5, rtol=0)
    assert kept_PK[:, 0].all() and found.ids_PK.shape == (4, min(top_k, 37)) and used_PD.shape == (4, draws)
    drawn_P = used_PD.any(-1)
    torch.testing.assert_close(found.draw_weights_PD.sum(-1)[drawn_P], found.tail_P[drawn_P])
    assert (found.tail_P[~drawn_P] < LEAST).all() or not draws
    exact_PV = torch.zeros(4, 37).scatter_add(-1, found.ids_PK, kept_PK.float()) > 0
    assert not (exact_PV.gather(-1, found.draw_ids_PD) & used_PD).any()
    apart_PD = logprobs_PV.gather(-1, found.draw_ids_PD) - found.draw_logprobs_PD
    assert (apart_PD[used_PD].abs() <= 0.5 / COARSE + 1e-5).all()


def test_every_token_is_drawn_as_often_as_its_probability_says() -> None:
    runs, sparsity = 20_000, replace(USUAL, top_k=3, share=0.1)
    logits_1V = torch.randn(1, 60, generator=torch.Generator().manual_seed(1))
    found, _ = reduced(logits_1V.expand(runs, -1), sparsity)
    rest_V = logits_1V[0].softmax(-1)
    rest_V[found.ids_PK[0][found.logprobs_PK[0] > -torch.inf]] = 0
    mean_V = torch.zeros(60).index_add(0, found.draw_ids_PD.flatten(), found.draw_weights_PD.flatten()) / runs
    error_V = (rest_V * found.draw_weights_PD.max() / runs).sqrt()
    assert ((mean_V - rest_V).abs() <= 4.5 * error_V + 1e-7).all()
    drawn = found.draw_ids_PD[0][found.draw_weights_PD[0] > 0].tolist()
    assert len(set(drawn)) == len(drawn) > 4, "draws at equal distances do not come twice"


def test_losses_on_the_draws_are_right_on_average() -> None:
    runs = 4000
    logits_1V, student_1V = torch.randn(2, 1, 40, generator=torch.Generator().manual_seed(2)) * 2
    found, _ = reduced(logits_1V.expand(runs, -1), replace(USUAL, top_k=4, draws=5, share=0.1))
    loss_P = sparse_forward_kl(student_1V.expand(runs, -1), found)
    dense = float(dense_forward_kl(student_1V, logits_1V.log_softmax(-1)))
    rounding = float(found.tail_P[0]) / (2 * COARSE) / 4  # of the draws' log-probabilities: not a mean, but small
    assert abs(float(loss_P.mean()) - dense) < 4 * float(loss_P.std()) / runs**0.5 + rounding < 0.15 * dense


@pytest.mark.parametrize(("tail", "draws"), [(0.9, 9), (0.5, 5), (0.11, 2), (0.09, 1), (0.001, 1), (1e-5, 0)])
def test_a_draw_stands_for_the_same_mass_everywhere(tail: float, draws: int) -> None:
    rest = torch.full((1, 1000), tail / 1000)
    logits_PV = torch.cat([torch.full((1, 1), 1 - tail), rest], 1).log()
    found, _ = reduced(logits_PV, replace(USUAL, share=0.1001))
    assert int((found.draw_weights_PD > 0).sum()) == draws
    assert int((found.logprobs_PK > -torch.inf).sum()) == 1


def test_what_is_less_likely_than_most_of_a_draw_is_left_to_the_draws() -> None:
    logits_PV = torch.tensor([[0.6, 0.2, 0.08, 0.02, *[0.01] * 10]]).log()
    for share, least in ((0.1, 0.1 * WORTH), (0.0, 0.0)):
        found, _ = reduced(logits_PV, replace(USUAL, share=share))
        kept_K = found.logprobs_PK[0].exp()[found.logprobs_PK[0] > -torch.inf]
        assert len(kept_K) == (3 if share else 8) and (kept_K >= least).all()
    without, _ = reduced(logits_PV, replace(USUAL, share=0.1, draws=0))
    assert int((without.logprobs_PK > -torch.inf).sum()) == 8, "without draws entries are all there is"


def test_blocks_change_nothing_and_the_same_seed_draws_the_same() -> None:
    logits_PV = torch.randn(9, LOGITS_BLOCK // 4)
    together, apart = reduced(logits_PV, USUAL)[0], torch.Generator().manual_seed(0)
    rows = [sparsify_logits(row_1V.clone(), USUAL, apart)[0] for row_1V in logits_PV.split(1)]
    for whole, parts in zip(together, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts))


@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
def test_extreme_logits_stay_finite(size: float) -> None:
    logits_PV = torch.randn(5, 50) * size
    logits_PV[0] = -torch.inf
    logits_PV[0, 3] = 0.0
    found, normaliser_P = reduced(logits_PV, USUAL)
    assert found.ids_PK[0].tolist() == [3, *[0] * 7] and found.tail_P[0] == 0 and not found.draw_weights_PD[0].any()
    assert normaliser_P.isfinite().all()
    for part in (found.tail_P, found.draw_logprobs_PD, found.draw_weights_PD, found.logprobs_PK[:, 0]):
        assert part.isfinite().all()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_not_numbers_show_in_the_normaliser(wrong: float) -> None:
    logits_PV = torch.randn(3, 20)
    logits_PV[1, 7] = wrong
    _, normaliser_P = reduced(logits_PV, USUAL)
    assert normaliser_P.isfinite().tolist() == [True, False, True]


def test_a_distribution_cut_down_in_blocks_is_the_same() -> None:
    logprobs_PV = torch.randn(9, BLOCK // 4).log_softmax(-1)
    whole, alone = (torch.Generator().manual_seed(3) for _ in range(2))
    together = sparsify(logprobs_PV, 5, 3, whole)
    apart = [sparsify(row_1V, 5, 3, alone) for row_1V in logprobs_PV.split(1)]
    for found, rows in zip(together, zip(*apart, strict=True), strict=True):
        assert torch.equal(found, torch.cat(rows))
