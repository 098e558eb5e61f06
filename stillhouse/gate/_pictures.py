"""Pictures of a report: the loss, what gates measured passage by passage or layer by layer, reliability, ROC curves.

In: results with their details, losses, a calibration. Out: HTML figures; an empty text where there is nothing to draw.
It does not know which gates there are: it draws `passages`, `reliability` and `layers` from whoever left them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stillhouse.records import GateResult

from . import _svg
from ._calibration import Calibration, roc


def figure(value: float | None, unit: str) -> str:
    """A value as people read it: `97.5 %` or `0.042`; `none` where nothing could be measured."""
    if value is None:
        return "none"
    if unit == "fraction":
        percent = 100 * value
        return f"{_plain(percent, 1 if abs(percent) < 1000 else 0)} %"
    return _plain(value, 3 if abs(value) < 10 else 1)


def _plain(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if digits == 1 else text
    text = text.removeprefix("-") if not float(text) else text
    return text.replace("-", "−")


def unit_of(result: GateResult) -> str:
    """The unit of a result's value; empty where it has none."""
    return str(result.details.get("unit", ""))


def pictures(results: Sequence[GateResult], losses: Sequence[float]) -> str:
    """Training, and whatever the gates left to draw; an empty section is none."""
    figures = [
        _losses(losses),
        *(_passages(r) for r in results if r.details.get("passages")),
        *(_reliability(r) for r in results if r.details.get("reliability")),
        *(_layers(r) for r in results if isinstance(r.details.get("layers"), list)),
    ]
    inside = "".join(figures)
    return f'<section><h2>Training, drift, confidence</h2><div class="pair">{inside}</div></section>' if inside else ""


def _losses(losses: Sequence[float]) -> str:
    svg, logarithmic = _svg.curve(losses, "training loss")
    if not svg:
        return ""
    kind = "logarithmic height" if logarithmic else "linear height"
    return (
        f"<figure><figcaption><b>Loss</b>over {len(losses)} steps, {kind}</figcaption>{svg}"
        f'<div class="axis"><span>{figure(losses[0], "")} at the start</span>'
        f"<span>{figure(losses[-1], '')} at the end</span></div></figure>"
    )


def _passages(result: GateResult) -> str:
    values: list[float | None] = list(result.details["passages"])
    unit = unit_of(result)
    titles = [f"passage {i}: {figure(v, unit)} {unit}" for i, v in enumerate(values, 1)]
    known = [v for v in values if v is not None]
    return (
        f"<figure><figcaption><b>{escape(result.gate.capitalize())}, passage by passage</b>{escape(unit)}; "
        f"dashed: {figure(result.threshold, unit)}, the threshold of the mean</figcaption>"
        f"{_svg.bars(values, result.threshold, titles, f'{result.gate} per passage')}"
        f'<div class="axis"><span>least {figure(min(known, default=None), unit)}</span>'
        f"<span>most {figure(max(known, default=None), unit)}</span></div></figure>"
    )


def _reliability(result: GateResult) -> str:
    rows = result.details["reliability"]
    count = sum(row["n"] for row in rows)
    points = [(row["confidence"], row["right"], row["n"] / count) for row in rows]
    titles = [f"{row['n']} answers: sure to {row['confidence']:.0%}, right in {row['right']:.0%}" for row in rows]
    return (
        f"<figure><figcaption><b>Reliability</b>{count} answers in bins of confidence; on the line, the student is as "
        f"sure as it is right</figcaption>{_svg.reliability(points, titles, 'reliability')}"
        '<div class="axis"><span>sure of nothing</span><span>certain</span></div></figure>'
    )


def _layers(result: GateResult) -> str:
    values: list[float | None] = list(result.details["layers"])
    unit = unit_of(result)
    titles = [f"layer {i}: {figure(v, unit)}" for i, v in enumerate(values)]
    drawing = _svg.bars(values, result.threshold, titles, f"{result.gate} by layer", result.at_least)
    return (
        f"<figure><figcaption><b>{escape(result.gate.capitalize())}, layer by layer</b>dashed: "
        f"{figure(result.threshold, unit)}, the threshold of the mean</figcaption>{drawing}"
        '<div class="axis"><span>first layer</span><span>last layer</span></div></figure>'
    )


def calibration_pictures(calibration: Calibration | None) -> str:
    """One ROC per calibrated gate that has trials of both kinds."""
    if calibration is None:
        return ""
    figures = "".join(_roc(calibration, name) for name in calibration.thresholds)
    honest, bad = calibration.count(), [calibration.count(name) for name in calibration.sabotages]
    rejected, tried = sum(c.trials - c.approved for c in bad), sum(c.trials for c in bad)
    return (
        "<section><h2>How well the gates tell</h2>"
        f'<p class="said">Calibrated on {honest.trials} good consolidations, {honest.approved} of which pass all '
        f"gates, and {tried} sabotaged ones, {rejected} of which are rejected. Each curve: the share of good ones "
        "accepted over the share of sabotaged ones accepted, for every threshold. A gate need not see every sabotage: "
        f'all have to pass.</p><div class="rocs">{figures}</div></section>'
    )


def _roc(calibration: Calibration, gate: str) -> str:
    area = calibration.auc(gate)
    if area is None:
        return ""
    good, bad = calibration.values(gate, True), calibration.values(gate, False)
    points = roc(good, bad, calibration.at_least(gate))
    drawing = _svg.roc(points, f"ROC of {gate}, area {area:.2f}")
    return f"<figure>{drawing}<figcaption><b>{escape(gate)}</b>area {area:.2f}</figcaption></figure>"
