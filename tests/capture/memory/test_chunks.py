"""A memory as statements and chunks: every byte accounted for, whatever people write."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.capture.memory.chunks import chunks
from stillhouse.text.statements import statements
from tests.text.memories import TEXTS


@given(TEXTS, st.integers(1, 80))
def test_chunks_hold_every_statement_once_within_the_limit(text: str, limit: int) -> None:
    found = statements(text)
    made = chunks(text, found, len, limit)
    assert [s for c in made for s in c.statements] == found
    data = text.encode()
    for chunk in made:
        assert chunk.text in text
        first, last = chunk.statements[0], chunk.statements[-1]
        assert chunk.text.endswith(data[first.start : last.end].decode())
        assert len(chunk.text) <= limit or chunk.text.encode() == data[first.start : first.end]


def test_a_chunk_repeats_what_its_first_statement_leans_on() -> None:
    text = (
        "My dog is Rex. Filler stands here now and a little longer. "
        "Ilse is my sister. She lives in Ghent. Her cat is Tom."
    )
    made = chunks(text, statements(text), len, 80)
    assert [c.text for c in made[1:]] == ["Ilse is my sister. She lives in Ghent. Her cat is Tom."]
    far = text.replace("Ilse is my sister. ", "Ilse is my sister.\n\n| a | b |\n" + "# heading words\n" * 9)
    last = chunks(far, statements(far), len, 80)[-1]
    assert last.text == "She lives in Ghent. Her cat is Tom.", "rather without what it leans on than over the limit"
    assert [s.text for s in last.statements] == ["She lives in Ghent.", "Her cat is Tom."]


LARGE = {
    "lines": "The code of gate {} is seven.\n",
    "one line": "The code of gate {} is seven. ",
    "wrapped": "the code of gate {} is\n",
    "initials": "A. ",
    "dots": "....",
    "spaces": "      ",
    "quotes": ".\"')] ",
    "bullets": "- 1. - 2) ",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_memory_takes_time_in_proportion(name: str) -> None:
    def seconds(size: int) -> float:
        piece = LARGE[name]
        text = "".join(piece.format(i) for i in range(size // len(piece)))
        start = time.process_time()
        found = statements(text)
        chunks(text, found, lambda t: len(t) // 4, 768)
        return time.process_time() - start

    assert seconds(600_000) < 3.0
