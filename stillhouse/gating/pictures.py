"""Pictures of a report: the loss, measures by passage or by layer, reliability, ROC curves.

In: results with their details, losses, a calibration. Out: HTML figures; an empty text where there is nothing to draw.
It does not know which gates there are: it draws `passages`, `reliability`, `layers` and `by_layer` of any result that
has them in its details.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..records import GateResult
from ..report import svg
from .thresholds import Calibration, roc


def figure(value: float | None, unit: str, beside: float | None = None) -> str:
    """A value as people read it: `97.5 %` or `0.042`; `none` where nothing could be measured.

    It gets more digits where it would otherwise read like `beside`, although the two differ.
    """
    if value is None:
        return "none"
    text = _rounded(value, unit, 0)
    if beside is not None and beside != value:
        texts = (
            _rounded(value, unit, more)
            for more in range(4)
            if _rounded(beside, unit, more) != _rounded(value, unit, more)
        )
        text = next(texts, text)
    return text


def _rounded(value: float, unit: str, more: int) -> str:
    if unit == "fraction":
        percent = 100 * value
        return f"{_plain(percent, more + (1 if abs(percent) < 1000 else 0))} %"
    return _plain(value, more + (3 if abs(value) < 10 else 1))


def _plain(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if 0 < digits < 3 else text
    text = text.removeprefix("-") if not float(text) else text
    return text.replace("-", "−")


def unit_of(result: GateResult) -> str:
    """The unit of a result's value; empty where it has none."""
    return str(result.details.get("unit", ""))


def pictures(results: Sequence[GateResult], losses: Sequence[float]) -> str:
    """The loss, and what gates left in their details: by passage, by bin of confidence, by layer."""
    reliable = "".join(_reliability(r) for r in results if r.details.get("reliability"))
    lines = [_losses(losses), *(_passages(r) for r in results if r.details.get("passages"))]
    layers = [_by_layer(r) for r in results if isinstance(r.details.get("by_layer"), dict)]
    layers += [_layers(r) for r in results if isinstance(r.details.get("layers"), list)]
    return _section("Confidence, training, drift", reliable, lines, "pair") + _section(
        "Layer by layer", "", layers, "three"
    )


def _section(title: str, first: str, rest: Sequence[str], grid: str) -> str:
    inside = "".join(rest)
    if not first + inside:
        return ""
    body = f'<div class="beside">{first}<div>{inside}</div></div>' if first else f'<div class="{grid}">{inside}</div>'
    return f"<section><h2>{title}</h2>{body}</section>"


def _losses(losses: Sequence[float]) -> str:
    drawing, logarithmic = svg.curve(losses, "training loss")
    if not drawing:
        return ""
    kind = "logarithmic height" if logarithmic else "linear height"
    return (
        f"<figure><figcaption><b>Loss</b>over {len(losses)} steps, {kind}</figcaption>{drawing}"
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
        f"{svg.bars(values, result.threshold, titles, f'{result.gate} per passage')}"
        f'<div class="axis"><span>least {figure(min(known, default=None), unit)}</span>'
        f"<span>most {figure(max(known, default=None), unit)}</span></div></figure>"
    )


def _reliability(result: GateResult) -> str:
    rows = result.details["reliability"]
    count = sum(row["n"] for row in rows)
    points = [(row["confidence"], row["right"], row["n"] / count) for row in rows]
    titles = [f"{row['n']} answers: sure to {row['confidence']:.0%}, right in {row['right']:.0%}" for row in rows]
    return (
        f"<figure><figcaption><b>Reliability</b>{count} answers by confidence, larger dots for more of them; on the "
        "line, the student is as sure as it is right, below it too sure</figcaption>"
        f'<div class="plot"><span class="y">share right</span>{svg.reliability(points, titles, "reliability")}</div>'
        '<div class="axis"><span>sure of nothing</span><span>confidence</span><span>certain</span></div></figure>'
    )


def _layers(result: GateResult) -> str:
    values: list[float | None] = list(result.details["layers"])
    unit = unit_of(result)
    titles = [f"layer {i}: {figure(v, unit)}" for i, v in enumerate(values, 1)]
    drawing = svg.bars(values, result.threshold, titles, f"{result.gate} by layer", result.at_least)
    known = [v for v in values if v is not None]
    least = f"{figure(min(known, default=None), unit)} to {figure(max(known, default=None), unit)}"
    caption = f"{least}; dashed: {figure(result.threshold, unit)}, the threshold of the mean"
    return _by_depth(result, caption, drawing)


def _by_layer(result: GateResult) -> str:
    """A picture of `details["by_layer"]`, which has `what`, `unit` and `values`."""
    about = result.details["by_layer"]
    values: list[float | None] = list(about["values"])
    unit = str(about.get("unit", ""))
    titles = [f"layer {i}: {_precise(v)} {unit}" for i, v in enumerate(values, 1)]
    known = sorted((v for v in values if v is not None), key=abs)
    caption = f"{escape(str(about.get('what', '')))}, {escape(unit)}; most {_precise(known[-1]) if known else 'none'}"
    return _by_depth(result, caption, svg.signed(values, titles, f"{result.gate} by layer"))


def _by_depth(result: GateResult, caption: str, drawing: str) -> str:
    return (
        f"<figure><figcaption><b>{escape(result.gate.capitalize())}</b>{caption}</figcaption>{drawing}"
        '<div class="axis"><span>first layer</span><span>last</span></div></figure>'
    )


def _precise(value: float | None) -> str:
    return "none" if value is None else f"{value:.2g}".replace("-", "−")


def calibration_pictures(calibration: Calibration | None) -> str:
    """One ROC per calibrated gate that has trials of both kinds."""
    if calibration is None:
        return ""
    figures = "".join(_roc(calibration, name) for name in calibration.thresholds)
    rows = "".join(_kind(calibration, name) for name in ("", *calibration.sabotages))
    return (
        "<section><h2>How well the gates tell</h2>"
        '<p class="said">The thresholds come from consolidations known to be good, and from others spoiled on purpose. '
        "A dot is one of them: filled where it was judged as it should be.</p>"
        f'<table class="kinds"><tbody>{rows}</tbody></table>'
        '<p class="said">Each curve: the share of good ones that a gate accepts, over the share of spoiled ones, for '
        "every threshold. A gate need not see every sabotage: all gates have to pass.</p>"
        f'<div class="rocs">{figures}</div></section>'
    )


def _kind(calibration: Calibration, sabotage: str) -> str:
    """A row of dots, one for each trial of one kind, with the gates that refused any of them."""
    count = calibration.count(sabotage)
    refused = count.trials - count.approved
    right, wrong = (refused, count.approved) if sabotage else (count.approved, refused)
    dots = "●" * right + f"<i>{'○' * wrong}</i>"
    verdict = f"{refused} of {count.trials} refused" if sabotage else f"{count.approved} of {count.trials} approved"
    by = f" by {', '.join(count.gates)}" if count.gates else ""
    name = escape(sabotage.capitalize()) or "Good"
    return f'<tr><th>{name}</th><td class="dots">{dots}</td><td class="dim">{verdict}{escape(by)}</td></tr>'


def _roc(calibration: Calibration, gate: str) -> str:
    area = calibration.auc(gate)
    if area is None:
        return ""
    good, bad = calibration.values(gate, True), calibration.values(gate, False)
    points = roc(good, bad, calibration.at_least(gate))
    drawing = svg.roc(points, f"ROC of {gate}, area {area:.2f}")
    return f"<figure>{drawing}<figcaption><b>{escape(gate)}</b>area {area:.2f}</figcaption></figure>"
