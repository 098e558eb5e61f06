"""Citations, evidence and labels, corpora and their perturbation: every value by hand."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import pytest

from stillhouse.errors import InputError
from stillhouse.gating import read_corpus
from stillhouse.gating.grounded.citations import Citation, citations, jaccard, valid, without_markers
from stillhouse.gating.grounded.corpus import Corpus, CorpusPassage
from stillhouse.gating.grounded.evidence import (
    CorpusEvidence,
    LabelThresholds,
    claim,
    find_evidence,
    fragility,
    sensitivity,
    weigh,
)
from stillhouse.gating.grounded.perturbation import removals
from stillhouse.retrieve.lexical import LexicalIndex

TEXTS = {"a": "My dog is called Rex. He barks.", "b": "The door code is 7714."}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Rex [1].", [("a", "Rex", True)]),
        ("Rex [1][2]", [("a", "Rex", True), ("b", "Rex", False)]),
        ("Rex [1, 2].", [("a", "Rex", True), ("b", "Rex", False)]),
        ("He has a dog. Its name is Rex [1].", [("a", "Its name is Rex", False)]),
        ('The note says "the door code is 7714" [2].', [("b", "the door code is 7714", True)]),
        ("Rex [1]. The code is 7714 [2].", [("a", "Rex", True), ("b", "The code is 7714", True)]),
        ("Rex [7].", [("", "Rex", False)]),
        ("Rex [0].", [("", "Rex", False)]),
        ("[1]", [("a", "", False)]),
        ("Rex [1] and rex [1].", [("a", "Rex", True), ("a", "and rex", False)]),
        ("Rex [1]; REX [1].", [("a", "Rex", True)]),
        ("In [2024] it was [x] or [].", [("", "In", False)]),
        ("No marker at all.", []),
    ],
)
def test_citations_of_an_answer(answer: str, found: list[tuple[str, str, bool]]) -> None:
    assert citations(answer, ("a", "b"), TEXTS) == tuple(Citation(*one) for one in found)


def test_a_range_of_numbers_is_each_of_them_and_never_endless() -> None:
    shown = tuple("abcd")
    assert [c.passage for c in citations("Rex [2-4].", shown, {})] == ["b", "c", "d"]
    assert [c.passage for c in citations("Rex [4-2].", shown, {})] == []
    assert len(citations("Rex [1-9999].", shown, {})) == 64


def test_jaccard_by_hand() -> None:
    """{dog, called, rex} and {dog, named, rex}: two common of four. Articles and possessives are no words here."""
    assert jaccard("My dog is called Rex", "the dog named Rex") == 0.5
    assert jaccard("one two three", "one two three four five") == 0.6
    assert jaccard("", "") == 0.0


def test_a_span_is_valid_in_whole_words_or_beyond_six_tenths() -> None:
    assert valid("called rex", "My dog is called Rex. He barks.")
    assert not valid("call", "My dog is called Rex.")
    assert not valid("one two four", "one two three four five"), "three of five is not more than 0.6"
    assert valid("one two four five", "one two three four five"), "four of five is"
    assert valid("called dog Rex", "My dog is called Rex. He barks all day and all night."), "one sentence is enough"
    assert not valid("the", "The door.") and not valid("Rex", None)


def test_an_answer_without_its_markers() -> None:
    assert without_markers("I don't know [1] .") == "I don't know."


def test_claims_are_what_a_passage_adds() -> None:
    assert claim("What is the dog called?", "It rained. My dog is called Rex.") == {"rex"}
    assert claim("rex dog called", "My dog is called Rex.") == {"dog", "called", "rex"}, "nothing added: its own words"
    assert claim("?", "") == frozenset()


def test_signals_of_agreeing_passages_by_hand() -> None:
    """Four equal passages that say the same: redundancy 4, nothing else; scores 1, 1, 0.5: (2.5)^2 / 2.25."""
    same = weigh(dict.fromkeys("abcd", 1.0), dict.fromkeys("abcd", frozenset({"rex"})))
    assert same == CorpusEvidence(("a", "b", "c", "d"), 4.0, 0.0, 0.0)
    assert same.label() == "resolved"
    three = weigh({"a": 1.0, "b": 1.0, "c": 0.5}, dict.fromkeys("abc", frozenset({"rex"})))
    assert three.redundancy == pytest.approx(6.25 / 2.25)
    assert three.label() == "indeterminate", "three is not more than three"


def test_two_sides_are_contested() -> None:
    claims = {"a": frozenset({"7714"}), "b": frozenset({"9902"}), "c": frozenset({"9902"})}
    told = weigh({"a": 1.0, "b": 0.8, "c": 0.7}, claims)
    assert told.support == ("b", "c")
    assert told.disagreement == pytest.approx(0.4)
    assert told.label(LabelThresholds(disagreement=0.39)) == "contested"
    assert weigh({"a": 1.0, "b": 1.0}, {i: claims[i] for i in "ab"}).label() == "contested"


def test_what_is_said_once_or_never_is_indeterminate() -> None:
    assert weigh({}, {}) == CorpusEvidence((), 0.0, 0.0, 1.0)
    once = weigh({"a": 1.0}, {"a": frozenset({"ghent"})})
    assert once == CorpusEvidence(("a",), 1.0, 0.0, 1.0)
    assert once.label() == "indeterminate"
    assert once.label(LabelThresholds(redundancy=0.5, fragility=1.0)) == "resolved"


def test_fragility_is_the_lightest_cut() -> None:
    """A triangle of weights 1, 0.5, 0.5: its lightest cut is 0.5 + 0.5, and 2 the heaviest there could be."""
    triangle = nx.Graph()
    triangle.add_weighted_edges_from([("a", "b", 1.0), ("b", "c", 0.5), ("a", "c", 0.5)])
    assert fragility(triangle) == pytest.approx(1 - 1.0 / 2)
    chain = nx.Graph()  # two tight pairs held by one tie of 0.5
    chain.add_weighted_edges_from([("a", "b", 1.0), ("b", "c", 0.5), ("c", "d", 1.0)])
    assert fragility(chain) == pytest.approx(1 - 0.5 / 3)
    parts = nx.Graph([("a", "b")])
    parts.add_node("c")
    assert fragility(parts) == 1.0
    alone = nx.Graph()
    alone.add_node("a")
    assert fragility(alone) == 1.0


def test_a_loose_support_is_indeterminate_however_large() -> None:
    """Claims of three words, each shifted by one: neighbours share two of four, the next ones one of five. The lightest
    cut takes an end off: 0.5 + 0.2."""
    claims = {name: frozenset({f"w{n}", f"w{n + 1}", f"w{n + 2}"}) for n, name in enumerate("abcde")}
    told = weigh(dict.fromkeys("abcde", 1.0), claims)
    assert told.support == ("a", "b", "c", "d", "e")
    assert told.redundancy == 5.0
    assert told.fragility == pytest.approx(1 - (0.5 + 0.2) / 4)
    assert told.label() == "indeterminate"


def test_sensitivity_by_hand() -> None:
    found = [
        CorpusEvidence(("a",), 3.05, 0.0, 0.0),  # resolved; not at redundancy > 3.1
        CorpusEvidence(("a",), 5.0, 0.35, 0.0),  # resolved; contested at disagreement > 0.3
        CorpusEvidence(("a",), 5.0, 0.0, 0.75),  # indeterminate; resolved at fragility > 0.8
        CorpusEvidence(("a",), 5.0, 0.9, 0.0),  # contested, whatever moves
    ]
    assert [e.label() for e in found] == ["resolved", "resolved", "indeterminate", "contested"]
    flips = {(r["signal"], r["moved"]): r["flips"] for r in sensitivity(found)}
    assert flips == {
        ("redundancy", -0.1): 0, ("redundancy", 0.1): 1, ("disagreement", -0.1): 1, ("disagreement", 0.1): 0,
        ("fragility", -0.1): 0, ("fragility", 0.1): 1,
    }  # fmt: skip


def test_evidence_through_the_retriever() -> None:
    texts = ["My dog is Rex.", "Rex, the dog.", "Our dog: Rex.", "Dog Rex.", "Door code: 7714.", "Door code: 9902."]
    corpus = Corpus(tuple(CorpusPassage(f"p{n}", text, "notes") for n, text in enumerate(texts)), LexicalIndex)
    dog = find_evidence("Name the dog", corpus)
    assert set(dog.support) == {"p0", "p1", "p2", "p3"}
    assert (dog.disagreement, dog.fragility, dog.label()) == (0.0, 0.0, "resolved")
    assert find_evidence("door code?", corpus).label() == "contested"
    assert find_evidence("cat?", corpus) == CorpusEvidence((), 0.0, 0.0, 1.0)
    assert find_evidence("cat?", Corpus((), LexicalIndex)).label() == "indeterminate"


def test_a_tenth_is_removed_in_three_ways() -> None:
    corpus = [CorpusPassage(f"p{n:02}", "text", f"s{n // 5}") for n in range(20)]
    cited = {"p07": 5, "p11": 3, "p12": 1}
    ways = removals(corpus, cited)
    assert ways == removals(corpus, cited), "by a fixed seed"
    assert {name: len(gone) for name, gone in ways.items()} == {"random": 2, "by source": 5, "most cited": 2}
    assert ways["most cited"] == {"p07", "p11"}
    assert len({p.source for p in corpus if p.id in ways["by source"]}) == 1
    assert set(removals(corpus, {})) == {"random", "by source"}
    one = [CorpusPassage(f"p{n}", "text", "s") for n in range(3)]
    assert set(removals(one, {"p1": 1})) == {"random", "most cited"}
    assert removals(one[:1], {"p0": 1}) == {}


def test_corpora_from_rows_files_and_folders(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        json.dumps({"id": "x", "text": "One.", "source": "s"}) + "\n\n" + json.dumps({"id": "y", "text": "2"})
    )
    assert read_corpus(rows, LexicalIndex).passages == (
        CorpusPassage("x", "One.", "s"),
        CorpusPassage("y", "2", "rows.jsonl"),
    )
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("First.\n\n\nSecond\nline.\n")
    (folder / "deep" / "b.txt").write_text("Third.")
    (folder / ".hidden").write_text("Not this.")
    corpus = read_corpus(folder, LexicalIndex)
    assert [(p.id, p.text) for p in corpus.passages] == [
        ("a.md#1", "First."), ("a.md#2", "Second\nline."), ("deep/b.txt#1", "Third."),
    ]  # fmt: skip
    assert [p.id for p in corpus.without({"a.md#1"}).passages] == ["a.md#2", "deep/b.txt#1"]
    assert corpus.digest != corpus.without({"a.md#1"}).digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no passages"),
        ("{", "line 1 is not JSON"),
        ("3", "is no passage"),
        ('{"id": "a", "text": " "}', "the text is ' '"),
        ('{"text": "t"}', "the id is None"),
        ('{"id": "a", "text": "t", "page": 3}', "unknown keys page"),
        ('{"id": "a", "text": "t"}\n{"id": "a", "text": "u"}', "'a' comes twice"),
    ],
)
def test_what_is_wrong_with_a_corpus_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_corpus(path, LexicalIndex)


def test_a_corpus_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_corpus(tmp_path / "none", LexicalIndex)
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 at byte 0"):
        read_corpus(tmp_path / "c.txt", LexicalIndex)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no passages"):
        read_corpus(tmp_path / "empty", LexicalIndex)
