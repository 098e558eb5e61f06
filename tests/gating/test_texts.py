"""Gates on likelihoods and entropies: drift, regression, entropy, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from stillhouse.gate import calibration, drift, entropy, regression
from stillhouse.gating import passages
from stillhouse.gating.passages import PassageComparison
from stillhouse.gating.scored_answers import refuse_nan
from stillhouse.records import Question, Study
from stillhouse.runners import BASE, Reading, TorchRunner, Watch
from stillhouse.text.prompts import without_memory
from tests.gating.conftest import BROKEN, FRESH, STUDENT, WILD, Bench


def test_an_identical_student_has_neither_drift_nor_regression(bench: Bench) -> None:
    ctx = bench.context(FRESH)
    moved = drift.check(bench.candidate, drift.Config(), ctx)
    worse = regression.check(bench.candidate, regression.Config(), ctx)
    assert moved.value == pytest.approx(0, abs=1e-6)
    assert worse.value == pytest.approx(0, abs=1e-6)
    assert moved.passed
    assert worse.passed
    assert moved.n == worse.n == len(moved.details["passages"]) == 4


def test_a_wild_adapter_fails_both(bench: Bench) -> None:
    ctx = bench.context(WILD)
    moved = drift.check(bench.candidate, drift.Config(), ctx)
    worse = regression.check(bench.candidate, regression.Config(), ctx)
    assert moved.value is not None
    assert worse.value is not None
    assert moved.value > 1
    assert worse.value > 0.1
    assert not moved.passed
    assert not worse.passed


def test_drift_and_regression_against_dense_formulas(bench: Bench) -> None:
    """Both from full log-probabilities of one passage at a time; tolerance 1e-4 for float32 sums over batches."""
    ctx = bench.context(STUDENT)
    kl, base_nll, student_nll, drop, tokens = 0.0, 0.0, 0.0, 0.0, 0
    for text in ctx.texts:
        ids_1T = torch.tensor([bench.model.tokenizer(text)["input_ids"][: bench.model.context]])
        with torch.no_grad(), bench.bank.rows([-1]):
            base_TV = bench.model.network(input_ids=ids_1T).logits[0, :-1].double().log_softmax(-1)
        with torch.no_grad(), bench.bank.rows([STUDENT]):
            student_TV = bench.model.network(input_ids=ids_1T).logits[0, :-1].double().log_softmax(-1)
        kl += float(torch.nn.functional.kl_div(student_TV, base_TV, log_target=True, reduction="sum"))
        base_nll += float(torch.nn.functional.nll_loss(base_TV, ids_1T[0, 1:], reduction="sum"))
        student_nll += float(torch.nn.functional.nll_loss(student_TV, ids_1T[0, 1:], reduction="sum"))
        drop += float((student_TV.exp() * student_TV).sum() - (base_TV.exp() * base_TV).sum())
        tokens += ids_1T.shape[1] - 1
    moved = drift.check(bench.candidate, drift.Config(), ctx)
    worse = regression.check(bench.candidate, regression.Config(), ctx)
    assert moved.value == pytest.approx(kl / tokens, rel=1e-4)
    assert worse.value == pytest.approx(math.exp((student_nll - base_nll) / tokens) - 1, rel=1e-4)
    assert moved.details["tokens"] == tokens
    surer = entropy.check(bench.candidate, entropy.Config(), ctx)
    assert surer.value == pytest.approx(drop / tokens, rel=1e-3)


def test_texts_are_scored_once_for_both_gates(bench: Bench) -> None:
    ctx = bench.context(FRESH)
    assert ctx.passage_comparisons(FRESH) is ctx.passage_comparisons(FRESH)


def test_what_the_base_makes_of_a_passage_is_kept_for_the_next_student(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it fits; each student is measured against it as if it had been computed for that one."""
    texts, measured = bench.context(STUDENT).texts, list[list[tuple[PassageComparison, ...]]]()
    for kept in (0, passages.CACHE_BYTES):
        monkeypatch.setattr(passages, "CACHE_BYTES", kept)
        runner = Counting(replace(bench.model), bench.bank)  # a copy of the model, which nothing was kept for
        measured.append([passages.compare_passages(runner, texts, slot) for slot in (STUDENT, WILD)])
        assert runner.rows.count(STUDENT) == runner.rows.count(WILD) == 4
        assert runner.rows.count(BASE) == (4 if kept else 8)
    few, all_kept = measured
    assert few == all_kept
    assert few[0] != few[1]


LOGITS = Watch()


class Counting(TorchRunner):
    """Notes the slot of every row that is read."""

    rows: tuple[int, ...] = ()

    def read(self, rows: Sequence[Sequence[int]], slots: Sequence[int], watch: Watch = LOGITS) -> Iterator[Reading]:
        self.rows += tuple(slots)
        return super().read(rows, slots, watch)


def test_a_few_at_once_or_one_by_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = bench.context(STUDENT)
    given = (*ctx.texts, ctx.texts[0])
    together = passages.compare_passages(ctx.runner, given, STUDENT)
    assert together[0] == together[-1] and len(together) == len(given)
    monkeypatch.setattr(passages, "BATCH_TOKENS", 1)
    for one, several in zip(passages.compare_passages(ctx.runner, given, STUDENT), together, strict=True):
        assert (one.tokens, one.routed) == (several.tokens, several.routed)
        assert (one.student_nll, one.kl, one.student_entropy) == pytest.approx(
            (several.student_nll, several.kl, several.student_entropy), rel=1e-3
        )


def test_passages_too_short_to_predict_anything_are_left_out(bench: Bench) -> None:
    ctx = bench.context(FRESH)
    ctx.texts = ("", "a", *ctx.texts[:1])
    assert len(ctx.passage_comparisons(FRESH)) == 1


def test_gap_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): H = 1.5 ln 2; surprise at the second token is 2 ln 2, so the gap is 0.5 ln 2; at the first
    it is -0.5 ln 2. A uniform p has no gap."""
    logits_TV = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]).log()
    expected = [0.5 * math.log(2), -0.5 * math.log(2), 0.0]
    assert calibration.gaps(logits_TV, [1, 0, 2]).tolist() == pytest.approx(expected, abs=1e-6)


def test_gap_of_a_certain_student() -> None:
    logits_TV = torch.tensor([[20.0, 0.0], [20.0, 0.0]])
    assert calibration.gaps(logits_TV, [0, 1]).tolist() == pytest.approx([0.0, 20.0], abs=1e-5)


def test_calibration_scores_the_expected_answer_after_its_question(bench: Bench) -> None:
    question = Question("Name of the dog?", "Rex", 0, "forward", "held_out")
    study = Study(bench.study.statements, (question,))
    result = calibration.check(bench.candidate, calibration.Config(), bench.context(FRESH, study))
    prompt = bench.model.chat_ids(without_memory(question.text))
    answer = bench.model.text_ids(question.answer)
    with torch.no_grad():
        logits_TV = bench.model.network(input_ids=torch.tensor([prompt + answer])).logits[0].double()
    logp_TV = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
    nll = -sum(float(logp_TV[i, token]) for i, token in enumerate(answer))
    entropy = -float((logp_TV.exp() * logp_TV).sum())
    assert result.value == pytest.approx((nll - entropy) / len(answer), rel=1e-4)
    assert result.n == 1
    assert result.details["tokens"] == len(answer)


def test_calibration_prefers_the_teachers_words(bench: Bench) -> None:
    """The student learned to say "Rex": the same words expected as another answer would leave a gap."""
    question = Question("Name of the dog?", "7714", 0, "forward", "held_out", teacher="Rex")
    study = Study(bench.study.statements, (question,))
    assert calibration.check(bench.candidate, calibration.Config(), bench.context(STUDENT, study)).passed


def test_a_student_sure_of_something_else_fails_calibration(bench: Bench) -> None:
    wrong = Question("Name of the dog?", "7714", 0, "forward", "held_out")
    study = Study(bench.study.statements, (wrong,))
    result = calibration.check(bench.candidate, calibration.Config(), bench.context(STUDENT, study))
    assert result.value is not None
    assert result.value > 1
    assert not result.passed


def test_nan_is_refused_and_minus_infinity_is_not(bench: Bench) -> None:
    refuse_nan(torch.tensor([0.0, -torch.inf]))
    with pytest.raises(FloatingPointError):
        refuse_nan(torch.tensor([0.0, torch.nan]))
    with pytest.raises(FloatingPointError):
        bench.context(BROKEN).passage_comparisons(BROKEN)
