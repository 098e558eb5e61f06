"""A seed is the same everywhere, and another one for every other purpose."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.seeds import seed_of


@pytest.mark.parametrize(
    ("parts", "seed"),
    [((), 8238016292129134938), ((1, 2), 5306248793831594912), (("capture", 3), 3245901030475314766)],
)
def test_a_seed_is_the_same_on_every_machine(parts: tuple[int | str, ...], seed: int) -> None:
    assert seed_of(*parts) == seed


def test_parts_are_told_apart() -> None:
    parts: list[tuple[int | str, ...]] = [(1, 2), (2, 1), (12,), ("1", 2), ("12",), (1, "2"), ("1:2",), (1,), ("",), ()]
    assert all(seed_of(*one) != seed_of(*other) for one, other in itertools.combinations(parts, 2))


@given(st.lists(st.integers() | st.text(max_size=5)))
def test_every_generator_takes_it(parts: list[int | str]) -> None:
    assert 0 <= seed_of(*parts) < 2**63
