"""The runner, and what every gate has in common."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from pathlib import Path

import pytest

import stillhouse.gate
from stillhouse import gating, kinds
from stillhouse.errors import InputError, ModelError
from stillhouse.gating.measure import Measure, decided
from stillhouse.records import Study, Verdict, canonical, from_mapping
from tests.gating.conftest import BROKEN, FRESH, STUDENT, WILD, Bench

EMPTY = Study((), ())


def test_every_file_without_underscore_is_a_gate_with_its_own_name() -> None:
    folder = Path(stillhouse.gate.__file__).parent
    files = {f.stem for f in folder.glob("*.py") if not f.name.startswith("_")}
    assert set(kinds.names("gate")) == files
    for name in files:
        kind = kinds.load("gate", name)
        assert kind.MEASURE.gate == name
        assert dataclasses.is_dataclass(kind.Config)
        assert callable(kind.check)


@pytest.mark.parametrize("name", ["run_gates", *kinds.names("gate")])
def test_every_setting_has_a_line_of_its_own(name: str) -> None:
    module = gating.run_gates if name == "run_gates" else kinds.load("gate", name)
    (config,) = (n for n in ast.parse(inspect.getsource(module)).body if getattr(n, "name", "") == "Config")
    assert isinstance(config, ast.ClassDef)
    for field, line in zip(config.body[1::2], config.body[2::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant), ast.unparse(field)


def test_a_verdict_is_the_conjunction_and_reads_back(bench: Bench) -> None:
    done: list[str] = []
    verdict = gating.run(bench.candidate, "c" * 64, bench.context(STUDENT, others=(FRESH,)), on_gate=done.append)
    assert done == kinds.names("gate")
    assert [r.gate for r in verdict.results] == [n for n in done if n not in verdict.config["left_out"]]
    assert verdict.passed == all(r.passed for r in verdict.results)
    again = from_mapping(Verdict, json.loads(canonical(verdict)))
    assert canonical(again) == canonical(verdict)
    assert again.results[0].interval == verdict.results[0].interval
    assert verdict.config["gates"]["drift"] == {"threshold": 0.1}
    assert verdict.parents == ("c" * 64,)


def test_a_student_that_learned_its_memory_passes_the_memory_gates(bench: Bench) -> None:
    config = gating.Config(gates=("recall", "paraphrase", "unknown", "swap", "calibration"))
    verdict = gating.run(bench.candidate, "c" * 64, bench.context(STUDENT, others=(FRESH, WILD)), config)
    assert verdict.passed, [(r.gate, r.value, r.note) for r in verdict.results]


def test_an_untrained_student_is_refused(bench: Bench) -> None:
    verdict = gating.run(bench.candidate, "c" * 64, bench.context(FRESH))
    assert not verdict.passed
    assert [r.gate for r in verdict.results if r.passed and r.gate in ("recall", "paraphrase", "unknown")] == []


def test_nothing_to_measure_never_passes(bench: Bench) -> None:
    ctx = bench.context(STUDENT, EMPTY)
    ctx.texts = ()
    for result in gating.run(bench.candidate, "c" * 64, ctx).results:
        assert (result.value, result.passed, result.n) == (None, False, 0)
        assert result.note.startswith("nothing to measure: ")


def test_logits_that_are_not_numbers_are_refused_with_a_note(bench: Bench) -> None:
    verdict = gating.run(bench.candidate, "c" * 64, bench.context(BROKEN))
    for result in verdict.results:
        if result.gate not in ("swap", "overlap"):  # one asks everybody but the student, the other nobody
            assert result.value is None
            assert not result.passed
            assert "NaN" in result.note
    canonical(verdict)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_does_not_pass(value: float) -> None:
    result = Measure("stillhouse.gate.x", "about", "fraction", at_least=True).result(value, 0.0, 3, (0.0, 1.0))
    assert (result.value, result.passed, result.interval) == (None, False, None)
    assert "not a number" in result.note


def test_a_result_says_when_its_interval_crosses_the_threshold() -> None:
    measure = Measure("stillhouse.gate.x", "about", "fraction", at_least=True)
    assert "crosses" in decided(measure.result(1.0, 0.9, 5, (0.6, 1.0), "5 of 5"), calibrated=False).note
    assert decided(measure.result(1.0, 0.5, 5, (0.6, 1.0), "5 of 5"), calibrated=False).note == "5 of 5"
    assert measure.result(0.9, 0.9, 10).passed
    assert dataclasses.replace(measure, at_least=False).result(0.02, 0.02, 10).passed


@pytest.mark.parametrize(
    ("at_least", "threshold", "interval", "value_passes", "end_passes"),
    [
        (True, 0.9, (0.6, 1.0), True, False),
        (True, 0.5, (0.6, 1.0), True, True),
        (False, 0.98, (0.6, 1.0), False, False),
        (False, 1.0, (0.6, 1.0), True, True),
        (True, 0.9, None, True, True),
    ],
)
def test_a_calibrated_threshold_is_decided_at_the_bad_end(
    at_least: bool, threshold: float, interval: tuple[float, float] | None, value_passes: bool, end_passes: bool
) -> None:
    measure = Measure("stillhouse.gate.x", "about", "fraction", at_least)
    result = measure.result(1.0, threshold, 5, interval)
    assert decided(result, calibrated=False).passed is value_passes
    final = decided(result, calibrated=True)
    assert final.passed is end_passes
    assert final.details["decided"] == "bad end"
    assert ("bad end" in final.note) is (value_passes and not end_passes)


def test_a_result_without_a_value_stays_refused_whoever_decides() -> None:
    broken = Measure("stillhouse.gate.x", "about", "fraction", at_least=False).broken(0.5, "NaN")
    assert not decided(broken, calibrated=True).passed
    assert not decided(broken, calibrated=False).passed


def test_a_gate_that_does_not_apply_is_left_out_with_its_reason(bench: Bench) -> None:
    ctx = bench.context(STUDENT, others=(FRESH,))
    verdict = gating.run(bench.candidate, "c" * 64, ctx, gating.Config(("recall", "routing", "suite")))
    assert [r.gate for r in verdict.results] == ["recall"]
    assert verdict.passed
    assert set(verdict.config["left_out"]) == {"routing", "suite"}
    assert "router" in verdict.config["left_out"]["routing"]


def test_a_verdict_of_nothing_is_no_pass(bench: Bench) -> None:
    verdict = gating.run(bench.candidate, "c" * 64, bench.context(STUDENT), gating.Config(("suite",)))
    assert (verdict.results, verdict.passed) == ((), False)


def test_calibrated_thresholds_go_before_the_start_and_after_the_users_own() -> None:
    config = gating.Config(settings={"drift": {"threshold": 0.5}}, thresholds={"drift": 0.1, "recall": 0.7})
    chosen = gating.settings(config)
    assert (chosen["drift"].threshold, chosen["recall"].threshold) == (0.5, 0.7)
    assert chosen["unknown"].threshold == kinds.load("gate", "unknown").Config().threshold


def test_the_run_decides_calibrated_gates_at_the_bad_end(bench: Bench) -> None:
    ctx = bench.context(STUDENT, others=(FRESH,))
    strict = gating.Config(("recall", "unknown"), thresholds={"recall": 0.99}, calibration="e" * 64)
    verdict = gating.run(bench.candidate, "c" * 64, ctx, strict)
    assert {r.gate: r.passed for r in verdict.results} == {"recall": False, "unknown": True}
    assert verdict.results[0].value == 1.0
    assert verdict.config["calibrated_by"] == "e" * 64


def test_settings_reach_the_gate_and_mistakes_are_named(bench: Bench) -> None:
    chosen = gating.settings(gating.Config(("drift", "recall"), {"drift": {"threshold": 0.5}}))
    assert {name: setting.threshold for name, setting in chosen.items()} == {"drift": 0.5, "recall": 0.95}
    assert list(gating.settings()) == kinds.names("gate")
    with pytest.raises(InputError, match="did you mean 'drift'"):
        gating.settings(gating.Config(("drft",)))
    with pytest.raises(InputError, match="did you mean 'threshold'"):
        gating.settings(gating.Config(settings={"drift": {"treshold": 0.5}}))
    with pytest.raises(InputError, match="not among the gates to run"):
        gating.settings(gating.Config(("recall",), {"drift": {"threshold": 0.5}}))
    with pytest.raises(InputError, match="threshold"):
        gating.settings(gating.Config(settings={"drift": {"threshold": float("inf")}}))


def test_an_adapter_for_another_base_is_not_judged(bench: Bench) -> None:
    stranger = dataclasses.replace(bench.candidate, base="f" * 64)
    with pytest.raises(ModelError, match="ffffffffffff"):
        gating.run(stranger, "c" * 64, bench.context(STUDENT))
