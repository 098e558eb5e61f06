"""Suites from files, and the gate that compares student and base on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stillhouse import gating
from stillhouse.errors import InputError
from stillhouse.gate import suite
from stillhouse.gating import DoesNotApply, read_suite
from stillhouse.gating.context import prompt_digest
from stillhouse.gating.suite import Suite, SuiteQuestion
from stillhouse.text.prompts import without_memory
from tests.gating.conftest import BROKEN, FRESH, STUDENT, Bench

TOML = """
[[question]]
question = "What is the capital of France?"
answer = "Paris"

[[question]]
question = "Which is larger?"
choices = ["a cat", "a whale"]
answer = 1
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_toml_and_jsonl_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"question": "What is the capital of France?", "answer": "Paris"},
        {"question": "Which is larger?", "choices": ["a cat", "a whale"], "answer": "a whale"},
    ]
    left = read_suite(written(tmp_path, "a.toml", TOML))
    right = read_suite(written(tmp_path, "b.jsonl", "\n\n".join(map(json.dumps, rows))))
    assert left.items == right.items == (
        SuiteQuestion("What is the capital of France?", "Paris"),
        SuiteQuestion("Which is larger?", "a whale", ("a cat", "a whale")),
    )  # fmt: skip
    assert left.digest == right.digest
    assert (left.name, right.name) == ("a", "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no questions"),
        ("{", "line 1 is not JSON"),
        ("[1]", "is no question"),
        ('{"question": "Q one?"}', "the answer is None"),
        ('{"question": "Q one?", "answer": " "}', "the answer is ' '"),
        ('{"question": "", "answer": "a"}', "the question is ''"),
        ('{"question": "Q one?", "answer": "a", "anwser": "b"}', "unknown keys anwser"),
        ('{"question": "Q one?", "answer": "a", "choices": ["a"]}', "two or more"),
        ('{"question": "Q one?", "answer": "a", "choices": ["a", "a"]}', "all different"),
        ('{"question": "Q one?", "answer": "c", "choices": ["a", "b"]}', "none of the choices"),
        ('{"question": "Q one?", "answer": 2, "choices": ["a", "b"]}', "the answer is 2"),
        ('{"question": "Q one?", "answer": true, "choices": ["a", "b"]}', "the answer is True"),
        ('{"question": "Q one?", "answer": "a"}\n{"question": "q one", "answer": "A."}', "comes twice"),
        ('{"question": "Q one?", "answer": "a"}\n{"question": "q one", "answer": "x"}', "has two answers"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_suite(written(tmp_path, "s.jsonl", text))


@pytest.mark.parametrize(("text", "said"), [("x = ", "not TOML"), ("", "found nothing"), ("a = 1", r"found \['a'\]")])
def test_toml_that_is_no_suite(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_suite(written(tmp_path, "s.toml", text))


def test_a_suite_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_suite(tmp_path / "none.toml")
    (tmp_path / "s.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_suite(tmp_path / "s.jsonl")


def test_a_student_is_compared_with_its_base(bench: Bench) -> None:
    ctx = bench.context(STUDENT)
    ctx.suite = Suite("mine", (SuiteQuestion("Name of the dog?", "Rex"), SuiteQuestion("Name of the cat?", "Xyz")))
    result = suite.check(bench.candidate, suite.Config(), ctx)
    assert not isinstance(result, DoesNotApply)
    assert (result.value, result.n, result.passed) == (0.5, 2, True)
    assert result.details["suite"][0] == {
        "question": "Name of the dog?",
        "expected": "Rex",
        "base": False,
        "student": True,
    }
    worse = bench.context(FRESH)
    worse.suite = ctx.suite
    same = suite.check(bench.candidate, suite.Config(), worse)
    assert not isinstance(same, DoesNotApply)
    assert same.value == 0.0


def test_the_likeliest_choice_is_the_one_of_the_highest_summed_likelihood(bench: Bench) -> None:
    choices, question = ("Rex", "Max", "the old dog"), "What is my dog called?"
    ctx = bench.context(STUDENT)
    prompt = bench.model.chat_ids(without_memory(question))
    for slot in (STUDENT, -1):
        summed = []
        for choice in choices:
            ids = bench.model.text_ids(choice)
            with torch.no_grad(), bench.bank.rows([slot]):
                logits_TV = bench.model.network(input_ids=torch.tensor([prompt + ids])).logits[0].double()
            logp_TV = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
            summed.append(sum(float(logp_TV[i, token]) for i, token in enumerate(ids)))
        best = choices[summed.index(max(summed))]
        assert suite.marks(ctx, [SuiteQuestion(question, best, choices)], slot) == [True]
    assert suite.marks(ctx, [SuiteQuestion(question, "Rex", choices)], STUDENT) == [True]


def test_a_suite_that_was_trained_on_is_refused(bench: Bench) -> None:
    ctx = bench.context(STUDENT)
    ctx.suite = Suite("mine", (SuiteQuestion("Name of the dog?", "Rex"),))
    ctx.trained = frozenset([prompt_digest(bench.model.chat_ids(without_memory("Name of the dog?")))])
    with pytest.raises(InputError, match="was trained on"):
        gating.run(bench.candidate, "c" * 64, ctx, gating.Config(("suite",)))


def test_broken_logits_fail_the_suite(bench: Bench) -> None:
    ctx = bench.context(BROKEN)
    ctx.suite = Suite("mine", (SuiteQuestion("Name?", "Rex", ("Rex", "Max")),))
    (result,) = gating.run(bench.candidate, "c" * 64, ctx, gating.Config(("suite",))).results
    assert (result.value, result.passed) == (None, False)
