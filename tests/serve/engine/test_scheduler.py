"""Who runs next, as a table: fair between users, nothing that does not fit, nobody passed over for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.serve.engine.scheduler import Limits, Running, Waiting, plan, prefill_group

WIDE = Limits(rows=8, tokens=10_000, adapters=8)


def row(
    number: int, user: str | None = "a", tokens: int = 10, adapter: str | None = None, waited: float = 0
) -> Waiting:
    return Waiting(number, user, tokens, adapter, waited)


@pytest.mark.parametrize(
    ("about", "waiting", "running", "limits", "admitted"),
    [
        ("nobody waits", [], [], WIDE, ()),
        ("order of arrival", [row(1), row(2), row(3)], [], WIDE, (1, 2, 3)),
        ("as many as there are rows", [row(1), row(2), row(3)], [], Limits(2, 10_000, 8), (1, 2)),
        ("running rows count", [row(1), row(2)], [Running("b", 10)], Limits(2, 10_000, 8), (1,)),
        (
            "users take turns",
            [row(1, "a"), row(2, "a"), row(3, "a"), row(4, "b"), row(5, "c")],
            [],
            Limits(4, 10_000, 8),
            (1, 4, 5, 2),
        ),
        (
            "who runs already comes later",
            [row(1, "a"), row(2, "b")],
            [Running("a", 10), Running("a", 10), Running("b", 10)],
            WIDE,
            (2, 1),
        ),
        ("no user is a user", [row(1, None), row(2, None), row(3, "a")], [], Limits(2, 10_000, 8), (1, 3)),
        (
            "memory is rows times the longest",
            [row(1, tokens=10), row(2, "b", tokens=40), row(3, "c", tokens=10)],
            [Running("d", 10)],
            Limits(8, 60, 8),
            (1, 3),
        ),
        ("alone, everything runs", [row(1, tokens=10_000)], [], Limits(8, 60, 8), (1,)),
        (
            "no more adapters than slots",
            [row(1, "a", adapter="A"), row(2, "b", adapter="B"), row(3, "c", adapter="C"), row(4, "d")],
            [],
            Limits(8, 10_000, 2),
            (1, 2, 4),
        ),
        (
            "an adapter that runs takes no slot more",
            [row(1, "a", adapter="B"), row(2, "b", adapter="A")],
            [Running("c", 10, "A")],
            Limits(8, 10_000, 1),
            (2,),
        ),
        (
            "the patient are passed over",
            [row(1, "a", tokens=50, waited=1.0), row(2, "b")],
            [Running("c", 10)],
            Limits(8, 60, 8),
            (2,),
        ),
        (
            "but not for ever",
            [row(1, "a", tokens=50, waited=2.0), row(2, "b")],
            [Running("c", 10)],
            Limits(8, 60, 8),
            (),
        ),
        (
            "who came before goes on",
            [row(1, "b"), row(2, "a", tokens=50, waited=9.0), row(3, "c")],
            [Running("c", 10)],
            Limits(8, 60, 8),
            (1,),
        ),
    ],
)
def test_the_plan(
    about: str, waiting: list[Waiting], running: list[Running], limits: Limits, admitted: tuple[int, ...]
) -> None:
    assert plan(waiting, running, limits) == admitted, about


rows = st.builds(
    Waiting, st.integers(), st.sampled_from("abc"), st.integers(1, 50), st.sampled_from([None, "A", "B", "C"]),
    st.floats(0, 5),
)  # fmt: skip


@given(st.lists(rows, unique_by=lambda r: r.number, max_size=12), st.integers(1, 6), st.integers(1, 200))
def test_what_is_admitted_fits(waiting: list[Waiting], most: int, tokens: int) -> None:
    limits = Limits(most, tokens, 2)
    numbers = plan(waiting, [], limits)
    chosen = [w for w in waiting if w.number in numbers]
    assert len(set(numbers)) == len(numbers) <= most
    assert bool(numbers) == bool(waiting), "an idle engine takes somebody"
    assert len(chosen) < 2 or len(chosen) * max(w.tokens for w in chosen) <= tokens
    assert len({w.adapter for w in chosen} - {None}) <= 2


@pytest.mark.parametrize(
    ("widths", "tokens", "count"),
    [
        ([5], 10, 1),
        ([50], 10, 1),  # one is always read, in chunks
        ([5, 5, 5], 10, 2),
        ([5, 5, 5], 100, 3),
        ([1, 1, 1, 90], 1000, 3),  # padding the three would cost more than it saves
        ([10, 90], 1000, 2),
    ],
)
def test_prompts_are_read_together_as_far_as_that_saves(widths: list[int], tokens: int, count: int) -> None:
    assert prefill_group(widths, tokens) == count
