"""Small pictures as inline SVG: a value on its scale, a curve, a row of bars.

In: numbers. Out: SVG elements without scripts, sized by the page (class names only, colours come from its style sheet).
Horizontal positions are percentages, so strokes and dots keep their shape at every width.

It does not know gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ..records import GateResult

BARS = 90  # pixels high
POINTS = 240  # a curve wider than the page's pixels says nothing more


def scale(
    result: GateResult, domain: tuple[float, float], label: str, good: Sequence[float] = (), bad: Sequence[float] = ()
) -> str:
    """A track with its allowed side, a tick at the threshold, a bar for the interval, a dot for the value; small ticks
    above it for what good trials measured, below it for sabotaged ones."""

    def x(number: float) -> float:
        low, high = domain
        return 100 * (min(max(number, low), high) - low) / (high - low)

    limit = x(result.threshold)
    start, width = (limit, 100 - limit) if result.at_least else (0.0, limit)
    parts = [
        '<line class="track" x1="0" x2="100%" y1="11" y2="11"/>',
        f'<line class="allowed" x1="{start:.2f}%" x2="{start + width:.2f}%" y1="11" y2="11"/>',
        *(_tick("good", x(v), 0, 5) for v in good),
        *(_tick("bad", x(v), 17, 22) for v in bad),
        _tick("limit", limit, 3, 19),
    ]
    if result.interval:
        left, right = map(x, result.interval)
        parts.append(f'<line class="interval" x1="{left:.2f}%" x2="{right:.2f}%" y1="11" y2="11"/>')
    if result.value is not None:
        name = "pass" if result.passed else "fail"
        parts.append(f'<circle class="{name}" cx="{x(result.value):.2f}%" cy="11" r="5"/>')
    return f'<svg class="scale" role="img" aria-label="{escape(label)}" height="22">{"".join(parts)}</svg>'


def _tick(name: str, x: float, top: int, bottom: int) -> str:
    return f'<line class="{name}" x1="{x:.2f}%" x2="{x:.2f}%" y1="{top}" y2="{bottom}"/>'


def domain(
    value: float | None,
    threshold: float,
    interval: tuple[float, float] | None,
    proportion: bool,
    good: Sequence[float] = (),
) -> tuple[float, float]:
    """The range of a scale: 0 to 1 for proportions, else wide enough for the threshold twice and all that is shown but
    sabotaged trials, which stand at the edge where they are beyond it."""
    if proportion:
        return 0.0, 1.0
    shown = [0.0, threshold, *([] if value is None else [value]), *(interval or ()), *good]
    low, high = min(shown), max(2 * threshold, *(1.08 * s for s in shown))
    return 1.08 * low, high if high > low else low + 1.0


def reliability(points: Sequence[tuple[float, float, float]], titles: Sequence[str], label: str) -> str:
    """(confidence, share right, share of all answers) as dots by size in a square from 0 to 1, with its diagonal and a
    line from each dot to it."""
    parts = ['<line class="limit" x1="0" y1="100" x2="100" y2="0"/>']
    for (x, y, size), title in zip(points, titles, strict=True):
        left, top, line = f"{100 * x:.1f}", f"{100 - 100 * y:.1f}", f"{100 - 100 * x:.1f}"
        parts.append(f'<line class="gap" x1="{left}" x2="{left}" y1="{top}" y2="{line}"/>')
        parts.append(f'<circle class="dot" cx="{left}" cy="{top}" r="{1.6 + 4.4 * math.sqrt(size):.2f}">')
        parts.append(f"<title>{escape(title)}</title></circle>")
    return f'<svg class="square" role="img" aria-label="{escape(label)}" viewBox="0 0 100 100">{"".join(parts)}</svg>'


def roc(points: Sequence[tuple[float, float]], label: str) -> str:
    """A step curve from (0, 0) to (1, 1) in a square, with its diagonal."""
    xy = " ".join(f"{100 * x:.1f},{100 - 100 * y:.1f}" for x, y in points)
    return (
        f'<svg class="roc" role="img" aria-label="{escape(label)}" viewBox="0 0 100 100">'
        f'<polygon points="0,100 {xy} 100,100"/><line x1="0" y1="100" x2="100" y2="0"/><polyline points="{xy}"/></svg>'
    )


def curve(values: Sequence[float], label: str, dashed: Sequence[tuple[float, float]] = ()) -> tuple[str, bool]:
    """A line through the finite values, thinned to means, and whether its height is logarithmic. `dashed`: a second
    line on the same scale through (share of the width, finite value)."""
    points = _thin([v for v in values if math.isfinite(v)])
    if len(points) < 2:
        return "", False
    shown = [*points, *(value for _, value in dashed)]
    logarithmic = min(shown) > 0 and max(shown) / min(shown) > 20
    heights = [math.log(p) for p in shown] if logarithmic else shown
    low, span = min(heights), (max(heights) - min(heights)) or 1.0
    y = [f"{38 - 36 * (h - low) / span:.2f}" for h in heights]
    xy = [f"{100 * i / (len(points) - 1):.2f},{y[i]}" for i in range(len(points))]
    line = f'<polyline points="{" ".join(xy)}"/>'
    if dashed:
        second = [f"{100 * x:.2f},{at}" for (x, _), at in zip(dashed, y[len(points) :], strict=True)]
        line += f'<polyline style="stroke: var(--soft); stroke-dasharray: 4 3" points="{" ".join(second)}"/>'
    area = f'<polygon points="0,40 {" ".join(xy)} 100,40"/>'
    svg = f'<svg class="curve" role="img" aria-label="{escape(label)}" viewBox="0 0 100 40" preserveAspectRatio="none">'
    return f"{svg}{area}{line}</svg>", logarithmic


def bars(
    values: Sequence[float | None], threshold: float, titles: Sequence[str], label: str, at_least: bool = False
) -> str:
    """One bar per value on a common scale, with a line at the threshold; a value that is none has no bar."""
    finite = [v for v in values if v is not None]
    top = max([threshold, *finite]) * 1.08 or 1.0
    step = 100 / max(len(values), 1)
    parts = []
    for i, (value, title) in enumerate(zip(values, titles, strict=True)):
        height = 0.0 if value is None else max((BARS - 2) * max(value, 0.0) / top, 1.0)
        wrong = value is not None and (value < threshold if at_least else value > threshold)
        name = "over" if wrong else "under"
        place = f'x="{i * step + step * 0.14:.2f}%" width="{step * 0.72:.2f}%"'
        parts.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect class="hit" x="{i * step:.2f}%" width="{step:.2f}%" y="0" height="{BARS}"/>'
            f'<rect class="{name}" {place} y="{BARS - 1 - height:.2f}" height="{height:.2f}"/></g>'
        )
    y = BARS - 1 - (BARS - 2) * threshold / top
    parts.append(f'<line class="limit" x1="0" x2="100%" y1="{y:.2f}" y2="{y:.2f}"/>')
    parts.append(f'<line class="floor" x1="0" x2="100%" y1="{BARS - 0.5}" y2="{BARS - 0.5}"/>')
    return f'<svg class="bars" role="img" aria-label="{escape(label)}" height="{BARS}">{"".join(parts)}</svg>'


def signed(values: Sequence[float | None], titles: Sequence[str], label: str) -> str:
    """One bar per value, up or down from a line at zero, on their own scale; a value that is none has no bar."""
    finite = [v for v in values if v is not None]
    top, bottom = max([0.0, *finite]), min([0.0, *finite])
    unit, step = (BARS - 4) / ((top - bottom) or 1.0), 100 / max(len(values), 1)
    zero = 2 + top * unit
    parts = []
    for i, (value, title) in enumerate(zip(values, titles, strict=True)):
        height = 0.0 if value is None else max(abs(value) * unit, 1.0)
        y = zero - height if (value or 0.0) >= 0 else zero
        place = f'x="{i * step + step * 0.14:.2f}%" width="{step * 0.72:.2f}%"'
        bar = f'<rect class="under" {place} y="{y:.2f}" height="{height:.2f}"/>' if value is not None else ""
        whole = f'<rect class="column" x="{i * step:.2f}%" width="{step:.2f}%" y="0" height="{BARS}"/>'
        parts.append(f"<g><title>{escape(title)}</title>{whole}{bar}</g>")
    parts.append(f'<line class="floor" x1="0" x2="100%" y1="{zero:.2f}" y2="{zero:.2f}"/>')
    return f'<svg class="bars" role="img" aria-label="{escape(label)}" height="{BARS}">{"".join(parts)}</svg>'


def _thin(values: list[float]) -> list[float]:
    size = max(1, math.ceil(len(values) / POINTS))
    groups = [values[i : i + size] for i in range(0, len(values), size)]
    return [sum(g) / len(g) for g in groups]
