"""A memory read whole: every byte is in a statement or left out with a reason."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given

from stillhouse.records import Context, Reading, Statement
from stillhouse.text.statements import read, statements
from tests.text.memories import TEXTS


def spans(reading: Reading) -> list[tuple[int, int]]:
    return sorted([(s.start, s.end) for s in reading.statements] + [(x.start, x.end) for x in reading.left_out])


def bare_bytes(text: str, reading: Reading) -> bytes:
    """The bytes of a memory that nothing accounts for, spaces aside."""
    data = bytearray(text.encode())
    for start, end in spans(reading):
        assert 0 <= start < end <= len(data)
        data[start:end] = b" " * (end - start)
    return "".join(data.decode().split()).encode()


@given(TEXTS)
def test_every_byte_is_in_a_statement_or_left_out_with_a_reason(text: str) -> None:
    reading = read(text)
    assert not bare_bytes(text, reading)
    assert all(part.reason for part in reading.left_out)
    assert list(reading.statements) == statements(text)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans(reading))), "no two overlap"


@pytest.mark.parametrize(
    ("context", "told"),
    [
        (Context(), "My bike is green."),
        (Context(("Kitchen", "Boiler")), "Kitchen > Boiler: My bike is green."),
        (Context((), "Marta", "2026-03-04"), "Marta (2026-03-04): My bike is green."),
        (Context((), "Marta"), "Marta: My bike is green."),
        (Context(("Trip",), "", "4 May"), "Trip: 4 May: My bike is green."),
    ],
)
def test_a_statement_is_told_with_its_context(context: Context, told: str) -> None:
    assert Statement(0, 0, 17, "My bike is green.", context=context).told() == told
