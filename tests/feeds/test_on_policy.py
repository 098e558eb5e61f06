"""What a student writes: drawn by the sampler that answers and serves, from the student's own distribution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from stillhouse.feeds.on_policy import OnPolicy, Prompted, write
from stillhouse.models import Model
from stillhouse.runners import BASE, TorchRunner
from stillhouse.teachers.examples import TokenizedExample
from stillhouse.teachers.local import Local

PROMPT = (7, 21, 35, 49, 63)


def asked(rows: int, tokens: int) -> list[Prompted]:
    return [Prompted(TokenizedExample(PROMPT, PROMPT, (), "null"), tokens) for _ in range(rows)]


@pytest.mark.parametrize("takeover", [0.0, 0.6])
def test_tokens_are_drawn_from_the_students_distribution(random_model: Callable[..., Model], takeover: float) -> None:
    """400 first tokens: their mean surprise is the entropy, within four standard errors. A teacher like the student
    never takes over."""
    student = random_model("llama")
    wanted = OnPolicy(temperature=0.7, takeover=takeover)
    first = [s.answer[0] for s in write(student, Local.of(student), asked(400, 1), wanted, seed=5)]
    (reading,) = TorchRunner(student).read([PROMPT], [BASE])
    logp_V = torch.log_softmax(reading.logits(-1)[0] / 0.7, -1)
    surprise_N, mean = -logp_V[first], float(-(logp_V.exp() * logp_V).sum())
    assert float(surprise_N.mean()) == pytest.approx(mean, abs=4 * float(surprise_N.std()) / 20)
    assert len(set(first)) > 20


def test_an_answer_depends_on_its_seed_and_its_row_alone(random_model: Callable[..., Model]) -> None:
    student, wanted = random_model("llama"), OnPolicy()
    few, many, other = (
        [s.answer for s in write(student, Local.of(student), asked(rows, 6), wanted, seed)]
        for rows, seed in ((2, 1), (5, 1), (5, 2))
    )
    assert few == many[:2]
    assert len({*many, *other}) == 10
