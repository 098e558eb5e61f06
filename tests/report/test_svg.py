"""Pictures: where values stand on them, and what is left out."""

from __future__ import annotations

import re

import pytest

from stillhouse.records import GateResult
from stillhouse.report import svg


def result(value: float | None, at_least: bool = True) -> GateResult:
    return GateResult("recall", value, 0.8, at_least, False, 10, (0.5, 0.9) if value is not None else None)


def test_a_value_stands_on_its_scale() -> None:
    picture = svg.scale(result(0.75), (0.0, 1.0), 'a "label"', good=(0.9,), bad=(0.1, 2.0))
    assert '<circle class="fail" cx="75.00%"' in picture and 'aria-label="a &quot;label&quot;"' in picture
    assert (
        'class="allowed" x1="80.00%" x2="100.00%"' in picture and 'class="interval" x1="50.00%" x2="90.00%"' in picture
    )
    assert re.findall(r'class="(?:good|bad|limit)" x1="([\d.]+)%"', picture) == ["90.00", "10.00", "100.00", "80.00"]
    assert 'class="allowed" x1="0.00%" x2="80.00%"' in svg.scale(result(0.75, at_least=False), (0.0, 1.0), "")
    assert "circle" not in svg.scale(result(None), (0.0, 1.0), "")


def test_a_scale_holds_all_but_sabotaged_trials() -> None:
    assert svg.domain(0.3, 0.5, None, proportion=True) == (0.0, 1.0)
    low, high = svg.domain(3.0, 0.5, (-1.0, 4.0), proportion=False, good=(5.0,))
    assert low < -1.0 and high > 5.0
    assert svg.domain(None, 0.0, None, proportion=False) == (0.0, 1.0)


def test_a_curve_is_thinned_and_needs_two_points() -> None:
    picture, logarithmic = svg.curve([float(n % 7) for n in range(5000)], "loss")
    assert not logarithmic and len(re.findall(r"[\d.]+,[\d.]+", picture.split("<polyline")[1])) <= svg.POINTS
    assert svg.curve([1.0, float("inf")], "loss") == ("", False)
    both, _ = svg.curve([2.0, 1.0, 0.0], "loss", [(0.5, 4.0), (1.0, 2.0)])
    assert 'points="0.00,20.00 50.00,29.00 100.00,38.00"' in both and 'points="50.00,2.00 100.00,20.00"' in both
    assert svg.curve([100.0, 1.0], "loss")[1] and not svg.curve([100.0, 0.0], "loss")[1]


@pytest.mark.parametrize(("at_least", "names"), [(False, ["under", "over"]), (True, ["over", "under"])])
def test_bars_beyond_the_threshold_are_marked(at_least: bool, names: list[str]) -> None:
    picture = svg.bars([0.2, 0.9, None], 0.5, ["a", "<b>", "c"], "label", at_least)
    assert re.findall(r'class="(over|under)" x="', picture)[:2] == names
    assert 'height="0.00"' in picture and "&lt;b&gt;" in picture


def test_signed_bars_stand_on_both_sides_of_zero() -> None:
    picture = svg.signed([2.0, -1.0, None], ["up", "down", "none"], "label")
    up, down = (float(y) for y in re.findall(r'class="under" [^/]*y="([\d.]+)"', picture))
    (zero,) = (float(y) for y in re.findall(r'class="floor" x1="0" x2="100%" y1="([\d.]+)"', picture))
    assert up < zero and down == pytest.approx(zero, abs=0.01)


def test_squares_have_their_origin_below() -> None:
    assert 'points="0,100 0.0,50.0 50.0,0.0 100,100"' in svg.roc([(0.0, 0.5), (0.5, 1.0)], "roc")
    picture = svg.reliability([(0.9, 0.6, 1.0)], ["all <3"], "reliability")
    assert 'cx="90.0" cy="40.0"' in picture and "all &lt;3" in picture
