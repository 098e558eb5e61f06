"""Where thresholds lie, which trials they accept, and the file they are kept in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse import gating, models
from stillhouse.errors import StoreError
from stillhouse.gating import Calibration, CalibrationTrial, read_calibration, write_calibration
from stillhouse.gating.measure import Measure
from stillhouse.gating.thresholds import GateMeasurement, auc, failed_gates, measurements, roc, thresholds
from stillhouse.models import Model

BASE = "b" * 64


def trial(sabotage: str = "", **worst: float | None) -> CalibrationTrial:
    """Gates whose name begins with `low` want a small value."""
    gates = {name: GateMeasurement(w, w, not name.startswith("low"), 10, 0.5) for name, w in worst.items()}
    return CalibrationTrial("m" * 64, sabotage, gates)


@pytest.mark.parametrize(
    ("good", "bad", "name", "expected"),
    [
        ([0.9, 0.8], [], "right", 0.5),  # no sabotage beyond: the start, which allows more
        ([0.6, 0.5], [0.9], "right", 0.4),  # no sabotage beyond: by the spread of the good ones, which allows more
        ([0.9, 0.8], [0.2], "right", 0.5),  # the start allows more and refuses as many
        ([0.9, 0.8], [0.6], "right", 0.7),  # the start would let one pass: by the spread
        ([0.9, 0.8], [0.7], "right", 0.75),  # half-way to the sabotaged one is less than the spread
        ([0.9, 0.9], [0.6], "right", 0.81),  # no spread: a tenth of the value
        ([0.9, 0.8], [0.95, 0.85], "right", 0.5),  # sabotage that this gate cannot see does not count
        ([0.1, 0.2], [0.45], "low", 0.3),
        ([0.0, 0.0], [], "low", 0.5),
        ([0.9, 0.0], [0.95], "right", 0.0),  # nor what should be large to be under it
        ([-0.9, -0.8], [0.4], "low", 0.0),  # what should be small is not asked to be under 0
    ],
)
def test_where_a_threshold_lies(good: list[float], bad: list[float], name: str, expected: float) -> None:
    kinds = [("", value) for value in good] + [("x", value) for value in bad]
    found = thresholds([trial(kind, **dict[str, float | None]({name: value})) for kind, value in kinds])
    assert found == {name: pytest.approx(expected)}


def test_a_gate_is_not_strict_where_another_one_tells() -> None:
    """Sabotage near to the worst honest trial at one gate, but far away at another, makes neither of them strict."""
    near = [trial(right=0.9, other=0.9), trial(right=0.8, other=0.8), trial("x", right=0.79, other=0.1)]
    assert thresholds(near) == {"right": 0.5, "other": 0.5}
    alone = [trial(right=0.9, other=0.9), trial(right=0.8, other=0.8), trial("x", right=0.79, other=0.9)]
    assert thresholds(alone)["right"] == pytest.approx(0.795)


SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=2)


@given(st.lists(SHARES, min_size=1, max_size=9), st.lists(SHARES, max_size=9))
def test_honest_ones_are_accepted_and_whatever_is_beyond_the_worst_of_some_gate_is_not(
    good: list[list[float]], bad: list[list[float]]
) -> None:
    honest = [trial(right=right, low=low) for right, low in good]
    sabotaged = [trial("x", right=right, low=low) for right, low in bad]
    found = thresholds([*honest, *sabotaged])
    assert not any(failed_gates(t, found) for t in honest)
    worst, most = min(right for right, _ in good), max(low for _, low in good)
    for (right, low), t in zip(bad, sabotaged, strict=True):
        if right < worst - 1e-6 or low > most + 1e-6:
            assert failed_gates(t, found)


def test_each_gate_accepts_the_honest_and_together_they_reject_the_rest() -> None:
    trials = [
        trial(right=0.9, low=0.1), trial(right=0.8, low=0.2),
        trial("x", right=0.1, low=0.1), trial("y", right=0.95, low=0.9), trial("z", right=None, low=0.1),
    ]  # fmt: skip
    found = thresholds(trials)
    assert [failed_gates(t, found) for t in trials] == [[], [], ["right"], ["low"], ["right"]]


def test_an_honest_one_that_failed_is_left_aside_where_that_rejects_more() -> None:
    """20 honest trials: one may go, the one at 0.1, which the sabotaged ones at 0.3 hide behind."""
    honest = [trial(right=0.9 - n / 1000) for n in range(19)] + [trial(right=0.1)]
    sabotaged = [trial("x", right=0.3) for _ in range(5)]
    found = thresholds([*honest, *sabotaged])
    assert found["right"] > 0.3
    assert sum(not failed_gates(t, found) for t in honest) == 19
    assert thresholds([*honest[9:], *sabotaged])["right"] < 0.3, "of 11 none may go"


def test_a_gate_an_honest_one_could_not_measure_has_no_threshold() -> None:
    assert thresholds([trial(right=0.9, other=None), trial(right=0.8, other=0.5)]) == {"right": 0.5}
    assert set(thresholds([trial(right=0.9, other=0.2), trial(right=0.8)])) == {"right"}
    assert thresholds([trial("x", right=0.1)]) == {}


def test_a_gate_that_counts_exactly_keeps_its_threshold() -> None:
    exact = Measure("stillhouse.gate.x", "", "fraction", at_least=False, exact=True)
    honest = [CalibrationTrial("m", "", measurements([exact.result(0.0, 0.0, 5)])) for _ in range(2)]
    caught = CalibrationTrial("m", "x", measurements([exact.result(0.1, 0.0, 5)]))
    found = thresholds([*honest, caught])
    assert found == {"x": 0.0}
    assert failed_gates(caught, found) == ["x"]


def test_a_trial_keeps_the_bad_end() -> None:
    low = Measure("stillhouse.gate.low", "", "cosine", at_least=False).result(0.2, 0.1, 4, (0.1, 0.4))
    high = Measure("stillhouse.gate.high", "", "fraction", at_least=True).result(0.2, 0.1, 4, (0.1, 0.4))
    found = measurements([low, high])
    assert (found["low"].worst, found["high"].worst) == (0.4, 0.1)


def test_roc_and_its_area_by_hand() -> None:
    """Good 0.9, 0.5; bad 0.7, 0.1: three of the four pairs are in order."""
    assert roc([0.9, 0.5], [0.7, 0.1], True) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert auc([0.9, 0.5], [0.7, 0.1], True) == 0.75
    assert auc([0.9, 0.5], [0.7, 0.1], False) == 0.25
    assert auc([0.5], [0.5], True) == 0.5
    assert auc([], [0.5], True) is None


def made() -> Calibration:
    trials = (trial(right=0.9), trial(right=0.8), trial("x", right=0.1), trial("y", right=0.85))
    return Calibration(BASE, "tiny", thresholds(trials), trials, {"train": {"steps": 3}})


def test_a_calibration_reads_back_and_is_used_for_its_base_alone(tmp_path: Path) -> None:
    write_calibration(tmp_path, made())
    found = read_calibration(tmp_path, BASE)
    assert found == made()
    assert found.count() == (2, 2, [])
    assert found.sabotages == ["x", "y"]
    assert found.count("x") == (1, 0, ["right"])
    assert found.count("y").approved == 1
    assert found.auc("right") == 0.75
    config = gating.calibrated(tmp_path, BASE)
    assert config.thresholds == found.thresholds
    assert config.calibration == found.digest
    assert gating.calibrated(tmp_path, "c" * 64) == gating.Config()
    mine = gating.Config(settings={"drift": {"threshold": 0.5}})
    assert gating.calibrated(tmp_path, BASE, mine).settings == mine.settings


def test_a_base_that_changed_has_no_calibration(random_model: Callable[..., Model], tmp_path: Path) -> None:
    """Weights of the same name, trained on: thresholds of before say nothing about them."""
    old = random_model("llama")
    write_calibration(tmp_path, replace(made(), base=old.fingerprint))
    folder = Path(shutil.copytree(old.path, tmp_path / "model"))
    same = models.load(str(folder), device="cpu")
    assert gating.calibrated(tmp_path, same.fingerprint).calibration == replace(made(), base=old.fingerprint).digest
    with torch.no_grad():
        next(iter(same.network.parameters())).add_(0.5)
    same.network.save_pretrained(folder)
    changed = models.load(str(folder), device="cpu")
    assert changed.fingerprint != old.fingerprint
    assert gating.calibrated(tmp_path, changed.fingerprint) == gating.Config()
    again = replace(made(), base=changed.fingerprint, thresholds={"right": 0.2})
    write_calibration(tmp_path, again)
    assert gating.calibrated(tmp_path, changed.fingerprint).thresholds == {"right": 0.2}
    assert gating.calibrated(tmp_path, old.fingerprint).thresholds == made().thresholds


def test_a_calibration_made_with_other_prompts_is_not_used(tmp_path: Path) -> None:
    write_calibration(tmp_path, replace(made(), prompts=0))
    assert read_calibration(tmp_path, BASE) is None
    assert gating.calibrated(tmp_path, BASE) == gating.Config()


@pytest.mark.parametrize("damage", ["cut", "list", "format", "value", "field", "trials"])
def test_a_damaged_calibration_is_an_error(tmp_path: Path, damage: str) -> None:
    path = write_calibration(tmp_path, made())
    raw = json.loads(path.read_text())
    if damage == "format":
        raw["format"] = 99
    if damage == "value":
        raw["calibration"]["thresholds"]["right"] = 0.0
    if damage == "field":
        raw["calibration"]["more"] = 1
    if damage == "trials":
        raw["calibration"]["trials"] = [3]
    text = json.dumps([1] if damage == "list" else raw)
    path.write_text(text[:50] if damage == "cut" else text)
    with pytest.raises(StoreError, match="calibrate"):
        read_calibration(tmp_path, BASE)
