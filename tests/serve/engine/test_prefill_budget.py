"""A prefill budget settles where a step takes `stretch` times a decoding step, whatever a token costs."""

from __future__ import annotations

import pytest

from stillhouse.errors import InputError
from stillhouse.serve.engine.prefill_budget import MIN_TOKENS, PrefillBudget
from stillhouse.serve.engine.sequence import Config


def settled(stretch: float, plain: float, each: float) -> int:
    budget = PrefillBudget(stretch)
    for _ in range(12):
        budget.record(plain, 0)
        budget.record(plain + each * budget.tokens, budget.tokens)
    return budget.tokens


def test_a_step_takes_the_stretch_of_a_plain_one() -> None:
    assert settled(1.4, 0.050, 0.001) in (19, 20)
    assert settled(2.0, 0.050, 0.001) in (49, 50)
    assert settled(1.4, 0.050, 0.1) == MIN_TOKENS


def test_tokens_that_cost_nothing_are_read_in_ever_larger_pieces() -> None:
    assert settled(1.4, 0.02, 0.0) > 1000


def test_one_slow_step_decides_nothing() -> None:
    budget = PrefillBudget(1.5)
    assert budget.tokens == MIN_TOKENS
    for _ in range(9):
        budget.record(0.1, 0)
        budget.record(0.15, 10)
    before = budget.tokens
    budget.record(3.0, 10)
    budget.record(5.0, 0)
    assert budget.tokens == before == 10


@pytest.mark.parametrize("wrong", [{"stretch": 1.0}, {"prompt_steps": 0}, {"rows": 0}, {"prefill_tokens": -1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"engine.{next(iter(wrong))}"):
        Config(**wrong)  # type: ignore[arg-type]
