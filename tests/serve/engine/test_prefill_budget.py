"""The pace of reading prompts: settles where a step takes the stretch of a plain one, whatever a token costs."""

from __future__ import annotations

import pytest

from stillhouse.errors import InputError
from stillhouse.serve.engine.prefill_budget import LEAST, Pace
from stillhouse.serve.engine.sequence import Config


def settled(stretch: float, plain: float, each: float) -> int:
    pace = Pace(stretch)
    for _ in range(12):
        pace.step(plain, 0)
        pace.step(plain + each * pace.tokens, pace.tokens)
    return pace.tokens


def test_a_step_takes_the_stretch_of_a_plain_one() -> None:
    assert settled(1.4, 0.050, 0.001) in (19, 20)
    assert settled(2.0, 0.050, 0.001) in (49, 50)
    assert settled(1.4, 0.050, 0.1) == LEAST


def test_tokens_that_cost_nothing_are_read_in_ever_larger_pieces() -> None:
    assert settled(1.4, 0.02, 0.0) > 1000


def test_one_slow_step_decides_nothing() -> None:
    pace = Pace(1.5)
    assert pace.tokens == LEAST
    for _ in range(9):
        pace.step(0.1, 0)
        pace.step(0.15, 10)
    before = pace.tokens
    pace.step(3.0, 10)
    pace.step(5.0, 0)
    assert pace.tokens == before == 10


@pytest.mark.parametrize("wrong", [{"stretch": 1.0}, {"prompt_steps": 0}, {"rows": 0}, {"prefill_tokens": -1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"engine.{next(iter(wrong))}"):
        Config(**wrong)  # type: ignore[arg-type]
