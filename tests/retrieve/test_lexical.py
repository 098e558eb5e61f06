"""The passages that share words with a question come first, in any script, and never more than fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.retrieve.lexical import LexicalIndex, ScoredPassage, terms, within

FACTS = [
    "My dog is called Zorvik.",
    "I work for Tarnel Labs.",
    "The wifi password is plonk47.",
    "The backup server listens on port 8472.",
    "My sister's name is Quelia.",
    "私の犬の名前はポチです。",
    "Meine Schwester heißt Käthe Straße.",
    "I was hiking with two dogs in the Alps.",
]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("What is my dog called?", 0), ("WIFI Passwords?", 2), ("on which port does the backup server listen", 3),
        ("What is my sister's name?", 4), ("犬の名前は?", 5), ("KÄTHE STRASSE", 6), ("hike in the Alps", 7),
        ("8472", 3),
    ],
)  # fmt: skip
def test_the_passage_that_answers_comes_first(query: str, best: int) -> None:
    found = LexicalIndex(FACTS).scored(query)
    assert found[0].index == best
    assert found[0].text == FACTS[best]
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)


@pytest.mark.parametrize("query", ["", "?", "xylophone", "\n\t ", "🦊"])
def test_nothing_in_common_finds_nothing(query: str) -> None:
    assert LexicalIndex(FACTS).top(query) == []


@pytest.mark.parametrize("passages", [[], [""], ["!?", "…"]])
def test_nothing_to_look_among(passages: list[str]) -> None:
    assert LexicalIndex(passages).top("dog") == []


def test_stop_words_alone_are_still_words() -> None:
    assert terms("Who is he?") == ["who", "is", "he"]
    assert LexicalIndex(["It is what it is.", "A red boat."]).top("what is it") == ["It is what it is."]


def test_the_later_of_equal_passages_comes_first() -> None:
    index = LexicalIndex(["My dog is Rex.", "My cat is Ann.", "My dog is Rex."])
    assert [p.index for p in index.scored("dog")] == [2, 0]
    assert index.top("dog", k=1) == ["My dog is Rex."]
    assert index.top("dog", k=0) == []


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=30), st.integers(0, 5))
def test_any_text_can_be_looked_for(passages: list[str], query: str, k: int) -> None:
    found = LexicalIndex(passages).scored(query, k)
    assert len(found) <= k
    assert all(set(terms(query)) & set(terms(p.text)) for p in found)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), max_size=12), st.integers(0, 100))
def test_what_fits_fits(sizes: list[tuple[int, int]], budget: int) -> None:
    found = [ScoredPassage(index, "x" * size, 1.0) for index, (_, size) in enumerate(sizes)]
    chosen = within(found, budget, len)
    assert sum(len(p.text) + 1 for p in chosen) <= budget
    assert [p.index for p in chosen] == sorted(p.index for p in chosen)
    assert all(len(p.text) + 1 > budget - sum(len(c.text) + 1 for c in chosen) for p in found if p not in chosen)
