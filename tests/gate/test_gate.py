"""The runner, and what every gate has in common."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import stillhouse.gate
from stillhouse import gate, kinds
from stillhouse.errors import InputError, ModelError
from stillhouse.gate._measure import Measure
from stillhouse.records import Study, Verdict, canonical, from_mapping

from .conftest import BROKEN, FRESH, STUDENT, WILD, Bench

EMPTY = Study((), ())


def test_every_file_without_underscore_is_a_gate_with_its_own_name() -> None:
    folder = Path(stillhouse.gate.__file__).parent
    files = {f.stem for f in folder.glob("*.py") if not f.name.startswith("_")}
    assert set(kinds.names("gate")) == files
    for name in files:
        kind = kinds.load("gate", name)
        assert kind.MEASURE.gate == name
        assert dataclasses.is_dataclass(kind.Config)
        assert "not calibrated" in " ".join(str(kind.Config.__doc__).split())
        assert callable(kind.check)


def test_a_verdict_is_the_conjunction_and_reads_back(bench: Bench) -> None:
    done: list[str] = []
    verdict = gate.run(bench.candidate, "c" * 64, bench.context(STUDENT, others=(FRESH,)), on_gate=done.append)
    assert done == [r.gate for r in verdict.results] == kinds.names("gate")
    assert verdict.passed == all(r.passed for r in verdict.results)
    again = from_mapping(Verdict, json.loads(canonical(verdict)))
    assert canonical(again) == canonical(verdict)
    assert again.results[0].interval == verdict.results[0].interval
    assert verdict.config["gates"]["drift"] == {"threshold": 0.1}
    assert verdict.parents == ("c" * 64,)


def test_a_student_that_learned_its_memory_passes_the_memory_gates(bench: Bench) -> None:
    config = gate.Config(gates=("recall", "paraphrase", "unknown", "swap", "calibration"))
    verdict = gate.run(bench.candidate, "c" * 64, bench.context(STUDENT, others=(FRESH, WILD)), config)
    assert verdict.passed, [(r.gate, r.value, r.note) for r in verdict.results]


def test_an_untrained_student_is_refused(bench: Bench) -> None:
    verdict = gate.run(bench.candidate, "c" * 64, bench.context(FRESH))
    assert not verdict.passed
    assert [r.gate for r in verdict.results if r.passed and r.gate in ("recall", "paraphrase", "unknown")] == []


def test_nothing_to_measure_never_passes(bench: Bench) -> None:
    ctx = bench.context(STUDENT, EMPTY)
    ctx.texts = ()
    for result in gate.run(bench.candidate, "c" * 64, ctx).results:
        assert (result.value, result.passed, result.n) == (None, False, 0)
        assert result.note.startswith("nothing to measure: ")


def test_logits_that_are_not_numbers_are_refused_with_a_note(bench: Bench) -> None:
    verdict = gate.run(bench.candidate, "c" * 64, bench.context(BROKEN))
    for result in verdict.results:
        if result.gate != "swap":  # swap asks everybody but the student
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
    assert "crosses" in measure.result(1.0, 0.9, 5, (0.6, 1.0), "5 of 5").note
    assert measure.result(1.0, 0.5, 5, (0.6, 1.0), "5 of 5").note == "5 of 5"
    assert measure.result(0.9, 0.9, 10).passed
    assert dataclasses.replace(measure, at_least=False).result(0.02, 0.02, 10).passed


def test_settings_reach_the_gate_and_mistakes_are_named(bench: Bench) -> None:
    chosen = gate.settings(gate.Config(("drift", "recall"), {"drift": {"threshold": 0.5}}))
    assert {name: setting.threshold for name, setting in chosen.items()} == {"drift": 0.5, "recall": 0.95}
    assert list(gate.settings()) == kinds.names("gate")
    with pytest.raises(InputError, match="did you mean 'drift'"):
        gate.settings(gate.Config(("drft",)))
    with pytest.raises(InputError, match="did you mean 'threshold'"):
        gate.settings(gate.Config(settings={"drift": {"treshold": 0.5}}))
    with pytest.raises(InputError, match="not among the gates to run"):
        gate.settings(gate.Config(("recall",), {"drift": {"threshold": 0.5}}))
    with pytest.raises(InputError, match="threshold"):
        gate.settings(gate.Config(settings={"drift": {"threshold": float("inf")}}))


def test_an_adapter_for_another_base_is_not_judged(bench: Bench) -> None:
    stranger = dataclasses.replace(bench.candidate, base="f" * 64)
    with pytest.raises(ModelError, match="ffffffffffff"):
        gate.run(stranger, "c" * 64, bench.context(STUDENT))
