"""The path of an answer, all sixteen cases of it."""

from __future__ import annotations

import itertools

import pytest

from stillhouse.serve.router import Knowledge, Route, route

CASES: list[tuple[tuple[bool, bool, bool], Route]] = [  # adapter, memory, newer
    ((False, False, False), "base"),
    ((False, False, True), "base"),
    ((False, True, False), "retrieval"),
    ((False, True, True), "retrieval"),
    ((True, False, False), "adapted"),
    ((True, False, True), "adapted"),
    ((True, True, False), "adapted"),
    ((True, True, True), "both"),
]


@pytest.mark.parametrize(("known", "path"), CASES)
def test_the_path(known: tuple[bool, bool, bool], path: Route) -> None:
    assert route(Knowledge(*known)) == path
    assert route(Knowledge(*known, base_only=True)) == "base", "who asks for the base gets the base"


def test_the_table_is_complete() -> None:
    assert [known for known, _ in CASES] == list(itertools.product([False, True], repeat=3))
