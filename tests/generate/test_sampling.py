"""A draw is the inverse of the distribution that transformers' own filters leave, whatever else is in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from stillhouse.errors import InputError
from stillhouse.generate import Draw, Sampling, choose, next_tokens
from stillhouse.generate.sampling import uniform

WORDS = 24
SEEN = (3, 5, 3, 9)


def filtered(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is drawn from, by transformers' processors in our order."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.min_p > 0:
        processors.append(MinPLogitsWarper(sampling.min_p))
    if sampling.top_k > 0:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    scores: Any = processors(torch.tensor([SEEN]), logits_V[None].clone())  # type: ignore[arg-type]
    return torch.softmax(scores[0].double(), -1)


def logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, WORDS, generator=torch.Generator().manual_seed(seed)) * 2


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.1, 2),
    seed=st.integers(-(2**63), 2**63 - 1),
    top_k=st.sampled_from([-1, 0, 1, 3, 10, 10**6]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.1]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
)


@settings(deadline=None)
@given(SAMPLINGS, st.integers(0, 1000))
def test_a_draw_is_where_the_uniform_number_falls(sampling: Sampling, step: int) -> None:
    (logits_V,) = logits(1, step)
    prob_V, token_V = filtered(logits_V, sampling).sort(descending=True, stable=True)
    (token,) = next_tokens(logits_V[None], [Draw(sampling, step, SEEN)])
    cumulative_V = prob_V.cumsum(-1)
    place = token_V.tolist().index(token)
    drawn = uniform(sampling.seed, step)
    assert float(cumulative_V[place] - prob_V[place]) - 1e-5 <= drawn <= float(cumulative_V[place]) + 1e-5
    assert prob_V[place] > 0


def test_draws_follow_the_filtered_distribution() -> None:
    sampling = Sampling(temperature=1.5, seed=4, top_k=12, top_p=0.9, min_p=0.02, repetition_penalty=1.2)
    (logits_V,) = logits(1)
    draws = [Draw(sampling, step, SEEN) for step in range(4000)]
    tokens = torch.tensor(next_tokens(logits_V.expand(len(draws), -1), draws))
    share_V = torch.bincount(tokens, minlength=WORDS) / len(draws)
    torch.testing.assert_close(share_V.double(), filtered(logits_V, sampling), atol=0.03, rtol=0)


def test_a_row_draws_the_same_in_any_company() -> None:
    logits_BV = logits(6)
    settings = [Sampling(temperature=float(i % 3), seed=i, top_k=i, repetition_penalty=1 + i % 2) for i in range(6)]
    draws = [Draw(sampling, i, SEEN) for i, sampling in enumerate(settings)]
    before = logits_BV.clone()
    together = next_tokens(logits_BV, draws)
    assert torch.equal(logits_BV, before)
    assert together == [next_tokens(logits_BV[i : i + 1], [draw])[0] for i, draw in enumerate(draws)]


def test_greedy_takes_the_best_and_a_penalty_moves_it() -> None:
    logits_BV = torch.tensor([[0.0, 4.0, 3.9], [-1.0, -0.9, -2.0]])
    plain, penalised = Sampling(), Sampling(repetition_penalty=1.5)
    assert plain.greedy and not penalised.greedy
    assert next_tokens(logits_BV, [Draw(plain, 0, (1,))] * 2) == [1, 1]
    assert next_tokens(logits_BV, [Draw(penalised, 0, (1,))] * 2) == [2, 0]
    assert next_tokens(torch.full((2, 3), torch.nan), [Draw(plain, 0), Draw(Sampling(temperature=1.0), 0)]) == [0, 0]


def test_log_probabilities_are_the_models_own() -> None:
    logits_BV = logits(2)
    sampling = Sampling(temperature=0.7, seed=2, top_k=1, repetition_penalty=5.0, logprobs=3)
    plain, reported = choose(logits_BV, [Draw(replace(sampling, logprobs=None), 0, SEEN), Draw(sampling, 0, SEEN)])
    assert plain.logprob is None and plain.top == ()
    logprobs_V = logits_BV[1].log_softmax(-1)
    assert reported.logprob == pytest.approx(float(logprobs_V[reported.token]))
    assert [token for token, _ in reported.top] == logprobs_V.topk(3).indices.tolist()


def test_answers_of_one_request_draw_apart() -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    assert sampling.numbered(0) == sampling
    seeds = {replace(sampling, seed=seed).numbered(number).seed for seed in range(9) for number in range(9)}
    assert len(seeds) == 81


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"max_new_tokens": -1}, "at least 0"),
        ({"temperature": -0.1}, "at least 0"),
        ({"temperature": float("nan")}, "at least 0"),
        ({"top_k": -2}, "at least 1, or 0 or -1 for all tokens"),
        ({"top_p": 0.0}, "more than 0, at most 1"),
        ({"top_p": 1.01}, "more than 0, at most 1"),
        ({"min_p": -0.5}, "0 to 1"),
        ({"repetition_penalty": 0.0}, "more than 0"),
        ({"logprobs": 21}, "0 to 20, or none"),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(wrong: dict[str, Any], allowed: str) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(InputError) as caught:
        Sampling(**wrong)
    assert str(caught.value) == f"sampling.{name}: {value} is not allowed; {allowed}"
