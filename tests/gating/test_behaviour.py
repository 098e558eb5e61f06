"""Gates on what a student says: refusal, confidence, coverage, style, length, overlap. Values by hand."""

from __future__ import annotations

import math

import pytest
import torch

from stillhouse.gate import coverage, ece, overlap, refusal, style, verbosity
from stillhouse.gating.context import prompt_digest, trained_prompts
from stillhouse.gating.scored_answers import ScoredAnswer
from stillhouse.records import Question, Study
from stillhouse.signals import DistillArtifact, PositionTarget
from stillhouse.text.prompts import UNKNOWN_ANSWER, without_memory
from tests.gating.conftest import FRESH, STUDENT, Bench


def held(text: str, answer: str, statement: int | None = 0, teacher: str = "") -> Question:
    return Question(text, answer, statement, "unknown" if statement is None else "forward", "held_out", teacher)


def test_f1_by_hand() -> None:
    """3 refused, 2 of them rightly, 4 should have been: precision 2/3, recall 1/2, F1 4/7."""
    refused, should = torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.tensor([1.0, 1, 0, 1, 1, 0])
    assert float(refusal.f1(refused, should)) == pytest.approx(4 / 7)
    assert float(refusal.f1(should, should)) == 1.0
    assert math.isnan(float(refusal.f1(torch.zeros(2), torch.zeros(2))))


def test_refusal_needs_both_kinds_of_questions(bench: Bench) -> None:
    good = refusal.check(bench.candidate, refusal.Config(), bench.context(STUDENT))
    assert (good.value, good.n, good.passed) == (1.0, 3, True)
    study = Study(bench.study.statements, (held("Name of the dog?", "Rex"),))
    assert refusal.check(bench.candidate, refusal.Config(), bench.context(STUDENT, study)).value is None


def test_a_student_that_answers_everything_fails_refusal(bench: Bench) -> None:
    """It is expected not to know what it was taught."""
    study = Study(
        bench.study.statements, (held("Name of the dog?", "?", None), held("Which code opens the door?", "7714"))
    )
    result = refusal.check(bench.candidate, refusal.Config(), bench.context(STUDENT, study))
    assert (result.value, result.passed) == (0.0, False)
    assert result.details["wrong"] == [{"question": "Name of the dog?", "refused": False}]


def test_ece_by_hand() -> None:
    """Bin 9: confidences 0.95, 0.95, 0.9 with two right: |2/3 - 14/15|, 3 of 4 answers. Bin 2: 0.2 and right: 0.8."""
    sure, right = [0.95, 0.95, 0.9, 0.2], [True, True, False, True]
    gap_BN = ece.binned_gaps(sure, right)
    assert float(gap_BN.sum(1).abs().sum()) / 4 == pytest.approx(0.75 * (14 / 15 - 2 / 3) + 0.25 * 0.8)
    rows = ece.reliability(sure, right)
    assert [(r["low"], r["n"]) for r in rows] == [(0.2, 1), (0.9, 3)]
    assert rows[1]["confidence"] == pytest.approx(14 / 15)
    assert rows[1]["right"] == pytest.approx(2 / 3)


def test_certainty_falls_into_the_last_bin() -> None:
    assert ece.reliability([1.0], [True])[0]["high"] == 1.0
    assert float(ece.binned_gaps([1.0, 1.0], [True, True]).abs().sum()) == 0


def test_ece_of_a_student_that_is_sure_and_right_or_sure_and_wrong(bench: Bench) -> None:
    good = ece.check(bench.candidate, ece.Config(), bench.context(STUDENT))
    assert good.passed
    assert sum(row["n"] for row in good.details["reliability"]) == good.n == 3
    study = Study(bench.study.statements, (held("Name of the dog?", "Max"), held("Which code opens the door?", "1")))
    assert (ece.check(bench.candidate, ece.Config(), bench.context(STUDENT, study)).value or 0) > 0.8


def test_the_likelihood_of_an_answer_is_that_of_its_tokens_and_its_end(bench: Bench) -> None:
    ctx = bench.context(STUDENT)
    (answer,) = ctx.scored_answers(["Name of the dog?"], STUDENT)
    prompt = bench.model.chat_ids(without_memory("Name of the dog?"))
    ids = [*bench.model.text_ids(answer.text), bench.model.tokenizer.eos_token_id]
    with torch.no_grad(), bench.bank.rows([STUDENT]):
        logits_TV = bench.model.network(input_ids=torch.tensor([prompt + ids])).logits[0].float()
    logp_TV = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
    expected = float(logp_TV.gather(1, torch.tensor(ids)[:, None]).sum())
    assert answer == ScoredAnswer("Rex", len(ids) - 1, answer.logprob)
    assert answer.logprob == pytest.approx(expected, abs=1e-4)


def test_coverage_weighs_statements_not_questions(bench: Bench) -> None:
    """Statement 0: 2 of 3 right; 1: all; 2 is an order; 3: nothing asked. Mean of 2/3, 1 and 0."""
    asked = (
        Question("What is my dog called?", "Rex", 0),
        held("Name of the dog?", "Rex", 0),
        Question("Who is Rex?", "my cat", 0, "reverse"),
        Question("What is the door code?", "7714", 1),
    )
    result = coverage.check(
        bench.candidate, coverage.Config(), bench.context(STUDENT, Study(bench.study.statements, asked))
    )
    assert result.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert result.n == 3
    assert "1 of 3 statements without a question" in result.note


@pytest.mark.parametrize(
    ("answer", "leaks"),
    [
        ("According to the memory, Rex.", True),
        ("Based on the provided context, it is 7714.", True),
        ("The passage states that he left.", True),
        ("As mentioned above, Rex.", True),
        ("The memory doesn’t say.", True),
        ("It is from your notes.", True),
        ("Rex", False),
        ("I don't know.", False),
        ("She has a good memory.", False),
        ("From the station.", False),
        ("He works in information security.", False),
    ],
)
def test_style(answer: str, leaks: bool) -> None:
    assert style.leaks_source(answer) is leaks
    assert not style.leaks_source(answer, expected=answer)


def test_style_over_a_study(bench: Bench) -> None:
    result = style.check(bench.candidate, style.Config(), bench.context(STUDENT))
    asked = [q for q in bench.study.questions if q.direction != "unknown" or q.use == "held_out"]
    assert 0 < len(asked) < len(bench.study.questions), "what is trained on as unknown is not asked"
    assert (result.value, result.n, result.passed) == (0.0, len(asked), True)


def test_verbosity_by_hand(bench: Bench) -> None:
    """The student says "Rex"; a teacher who said three times as much leaves a change of 2/3."""
    words = bench.model.text_ids("Rex")
    teacher = bench.model.text(words * 3)
    assert len(bench.model.text_ids(teacher)) == 3 * len(words)
    study = Study(bench.study.statements, (held("Name of the dog?", "Rex", teacher=teacher),))
    result = verbosity.check(bench.candidate, verbosity.Config(), bench.context(STUDENT, study))
    assert result.value == pytest.approx(2 / 3)
    assert not result.passed
    assert verbosity.check(bench.candidate, verbosity.Config(), bench.context(STUDENT)).value == pytest.approx(0.0)


def test_a_held_out_question_that_was_trained_on_is_found(bench: Bench) -> None:
    ctx = bench.context(FRESH)
    clean = overlap.check(bench.candidate, overlap.Config(), ctx)
    assert (clean.value, clean.n, clean.passed) == (0.0, 3, True)
    prompt = bench.model.chat_ids(without_memory("Name of the dog?"))
    target = PositionTarget(len(prompt), 0, (1,), (0.0,), 0.0)
    ctx.trained = trained_prompts([DistillArtifact("fact", 0, b"", (*prompt, 1), (target,))])
    assert ctx.trained == {prompt_digest(prompt)}
    found = overlap.check(bench.candidate, overlap.Config(), ctx)
    assert found.value == pytest.approx(1 / 3)
    assert not found.passed
    assert found.details["trained"] == ["Name of the dog?"]


def test_the_same_question_in_both_uses_is_found_without_the_signals(bench: Bench) -> None:
    study = Study(bench.study.statements, (Question("Who is Rex?", "my dog", 0), held("who is Rex", "my dog")))
    result = overlap.check(bench.candidate, overlap.Config(), bench.context(FRESH, study))
    assert (result.value, result.passed) == (1.0, False)


def test_unknown_answers_that_are_expected_do_not_leak() -> None:
    assert not style.leaks_source(UNKNOWN_ANSWER)
