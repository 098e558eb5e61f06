"""Records: canonical JSON is one string per value, a digest is a name, and reading back gives the same record."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.errors import StoreError
from stillhouse.records import (
    BestStep,
    Candidate,
    GateResult,
    Question,
    Signals,
    Statement,
    Study,
    Verdict,
    Version,
    canonical,
    digest,
    from_mapping,
)

STATEMENT = Statement(0, 0, 18, "Rex is my dog. Ω", instruction=False)
QUESTION = Question("What is my dog called?", "Rex", 0, "forward", "held_out")
RESULT = GateResult("recall", 0.97, 0.9, True, True, 30, (0.91, 0.99), details={"spans": [[0, 18]], "wrong": []})
BEST = BestStep(4, 0.25, True)
CANDIDATE = Candidate("adapter", "alice", "b" * 64, "a" * 64, {"r": 16, "target_modules": ["q"]}, {}, 40, (1.5, 0.1))
RECORDS = [
    STATEMENT,
    QUESTION,
    RESULT,
    CANDIDATE,
    BEST,
    replace(CANDIDATE, best=BEST),
    Study((STATEMENT,), (QUESTION, Question("What is my cat called?", "I don't know.", None, "unknown"))),
    Signals("alice", "m" * 64, "b" * 64, "s" * 64, "t" * 64, {"top_k": 8}, 40, 90, 120, ("m" * 64,)),
    Verdict(digest(CANDIDATE), True, (RESULT, RESULT), {"recall": {"threshold": 0.9}}, (digest(CANDIDATE),)),
    Version("alice", 1, "c" * 64, "v" * 64, "b" * 64, "tiny", True, "2026-01-01T00:00:00Z", ("c" * 64, "v" * 64)),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_canonical_json_is_sorted_compact_utf8() -> None:
    assert canonical({"b": [1, 2.5, None, True], "a": "Zoë"}) == '{"a":"Zoë","b":[1,2.5,null,true]}'.encode()


def test_canonical_json_of_a_record_names_every_field() -> None:
    assert canonical(STATEMENT) == (
        '{"end":18,"index":0,"instruction":false,"start":0,"text":"Rex is my dog. Ω"}'.encode()
    )


def test_what_came_later_is_named_only_where_it_is_given() -> None:
    assert digest(CANDIDATE) == "f2b1e9c3991544975d2cb27bf6dce86012f4de32dc1d108ec5ba5b9bfc6e8e02", (
        "as before there was `best`"
    )
    validated = canonical(replace(CANDIDATE, best=BEST))
    assert b'"best":{"loss":0.25,"step":4,"stopped_early":true}' in validated and b"best" not in canonical(CANDIDATE)
    assert BEST.line(40) == "best after step 4 of 40, held-out loss 0.2500, stopped early"


def test_records_inside_plain_values_become_objects() -> None:
    assert canonical([QUESTION, {"q": QUESTION}]) == b'[%b,{"q":%b}]' % (canonical(QUESTION), canonical(QUESTION))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [float("-inf")]}])
def test_numbers_that_json_does_not_have_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(value)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), Statement])
def test_values_that_json_does_not_have_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        canonical({"x": value})


@given(JSON)
def test_canonical_json_is_a_fixed_point(value: Any) -> None:
    assert canonical(json.loads(canonical(value))) == canonical(value)


def test_digest_is_stable_for_ever() -> None:
    """These names are in stores on disk: when this test breaks, every stored record has lost its name."""
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    value = {"parents": ("a", "b"), "text": "Zoë", "loss": [1.5, 1e-07, 12], "none": None, "yes": True}
    assert digest(value) == "81da24f1c8acd38ac12447e13b3b4e0d7fd579d0e06c791b25c433267f941bd3"


def test_digest_does_not_depend_on_the_process() -> None:
    code = "from tests.test_records import RECORDS, digest\nprint(*map(digest, RECORDS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(record) for record in RECORDS]


def test_parents_are_part_of_the_name() -> None:
    assert digest({"parents": ("a",)}) != digest({"parents": ("b",)})
    assert len({digest(record) for record in RECORDS}) == len(RECORDS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_reading_back_gives_the_same_record(record: object) -> None:
    again = from_mapping(type(record), json.loads(canonical(record)))
    assert again == record
    assert digest(again) == digest(record)
    if not isinstance(record, Candidate | Signals | GateResult | Verdict):  # those hold a dict
        assert hash(again) == hash(record)


@given(st.lists(st.tuples(st.text(max_size=9), st.none() | st.integers(0, 9)), max_size=4))
def test_any_study_comes_back(rows: list[tuple[str, int | None]]) -> None:
    study = Study((), tuple(Question(text, text, statement) for text, statement in rows))
    assert from_mapping(Study, json.loads(canonical(study))) == study


@dataclass(frozen=True)
class Nested:
    first: Statement
    pairs: tuple[tuple[int, int], ...]
    groups: tuple[tuple[Question, ...], ...] = ()
    last: Statement | None = None


def test_records_of_other_modules_and_deeper_tuples_come_back() -> None:
    record = Nested(STATEMENT, ((0, 1), (2, 3)), ((QUESTION,), ()), STATEMENT)
    assert from_mapping(Nested, json.loads(canonical(record))) == record


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": 1}, "unknown fields ['colour'], missing fields []"),
        ({"answer": None}, "unknown fields [], missing fields ['answer']"),
    ],
)
def test_another_version_is_named(change: dict[str, Any], named: str) -> None:
    values = {**json.loads(canonical(QUESTION)), **change}
    values = {k: v for k, v in values.items() if v is not None}
    with pytest.raises(StoreError) as error:
        from_mapping(Question, values)
    assert str(error.value) == f"Question: {named}: written by another version"


def test_a_field_with_a_default_may_be_missing() -> None:
    assert from_mapping(Question, {"text": "q", "answer": "a", "statement": None}) == Question("q", "a", None)


@pytest.mark.parametrize("values", [None, [], "text", 3, ["text", "answer"]])
def test_anything_but_an_object_is_damage(values: Any) -> None:
    with pytest.raises(StoreError, match="Question: expected an object, found"):
        from_mapping(Question, values)


@pytest.mark.parametrize("inside", [3, None, [1], "text"])
def test_damage_inside_a_tuple_is_named(inside: Any) -> None:
    with pytest.raises(StoreError, match="Statement: expected an object, found"):
        from_mapping(Study, {"statements": [inside], "questions": []})


def test_damage_of_a_tuple_itself_is_named() -> None:
    with pytest.raises(StoreError, match="Study: statements: expected a list, found 'x'"):
        from_mapping(Study, {"statements": "x", "questions": []})


def test_coverage_counts_different_wordings_and_needs_the_reverse() -> None:
    forward = tuple(Question(f"wording {n}", "Rex", 0) for n in range(3))
    reverse = Question("Who is Rex?", "my dog", 0, "reverse")
    assert Study((STATEMENT,), (*forward, reverse)).covered(0)
    assert not Study((STATEMENT,), forward).covered(0)
    assert not Study((STATEMENT,), (*forward[:2], forward[0], reverse)).covered(0)
    assert not Study((STATEMENT,), (*forward, reverse)).covered(1)
    assert Study((STATEMENT,), (*forward[:1], reverse)).covered(0, wordings=1)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        QUESTION.text = "x"  # type: ignore[misc]
