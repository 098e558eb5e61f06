"""A page without scripts: its frame in the style of the verdicts, its sections, curves, and tables with pictures.

In: numbers and texts. Out: HTML that loads nothing from elsewhere, for light and dark screens of any width. Texts are
escaped here; arguments whose name ends in `html` are not.

It does not know what the page is about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..records import canonical
from ..storage.files import write_atomic
from . import svg

SIDE = 180  # of the reliability plot, in pixels
OWN = """
.rel { width: 180px; height: 180px; } .rel rect { fill: none; stroke: var(--line); }
.rel line { stroke: var(--faint); stroke-dasharray: 3 3; }
.rel circle { fill: var(--accent); fill-opacity: .85; } .rel .was { fill: var(--faint); }
td.n, th.n { text-align: right; white-space: nowrap; }
td.n small, td small { color: var(--soft); }
td.name { font-weight: 600; overflow-wrap: normal; }
td a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: .18em; }
.spark, .dots { vertical-align: middle; } .spark { width: 7rem; min-width: 4.5rem; } .spark .curve { height: 30px; }
h2 + .wide, h2 + table, h2 + .pair { margin-top: 1rem; }
.moved { height: 12px; min-width: 6rem; } .moved line { stroke: var(--tint); stroke-width: 8; }
.moved circle { fill: var(--accent); } .moved .was { fill: var(--faint); }
.heat { table-layout: fixed; } .heat td.n, .heat th.n { padding-right: .8rem; }
.key .dot { display: inline-block; width: .6em; height: .6em; border-radius: 50%;
  background: var(--accent); margin: 0 .35em 0 .9em; } .key .dot.was { background: var(--faint); margin-left: 0; }
.wide { overflow-x: auto; }
@media (max-width: 46rem) { td.n { text-align: left; } .spark { width: auto; } .heat td.n { padding: .12rem .4rem; }
  td.n[data-of] { grid-template-columns: 7.5rem 1fr; } }
"""


def page(title: str, kicker: str, lead_html: str, sections: Sequence[str]) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>{_style()}</head><body><main>'
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{lead_html}</p></header>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def write(folder: Path, name: str, html: str, content: object) -> None:
    """A page `<name>.html`, then what it shows as `<name>.json`: where there is JSON, there is a page."""
    write_atomic(folder / f"{name}.html", html.encode())
    write_atomic(folder / f"{name}.json", canonical(content))


def _style() -> str:
    verdict = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    style = re.search(r"<style>.*?</style>", verdict, re.DOTALL)
    return (style[0] if style else "") + f"<style>{OWN}</style>"


def section(heading: str, note: str, html: str) -> str:
    """A part of the page; `note` is one line under its heading, "" for none."""
    below = f'<p class="said">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{below}{html}</section>"


def facts(values: Mapping[str, str]) -> str:
    """Short values, each with its label."""
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{rows}</dl>'


def table(heads: Sequence[str], rows_html: Sequence[Sequence[str]], name: str = "") -> str:
    """Cells are HTML with their `<td>`; a head that begins with ">" stands on the right."""
    head = "".join(f"<th{' class=n' if h.startswith('>') else ''}>{escape(h.lstrip('>'))}</th>" for h in heads)
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in rows_html)
    return f'<table class="{name}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def cell(text: str, name: str = "", of: str = "") -> str:
    """One escaped cell; `of` is its head, for narrow screens."""
    label = f' data-of="{escape(of)}"' if of else ""
    return f"<td{f' class={name}' if name else ''}{label}><span>{escape(text)}</span></td>"


def loss_figure(losses: Sequence[float], validation: Sequence[tuple[int, float]] = ()) -> str:
    """The loss of every step, and on held-out examples after so many."""
    label = "training loss, and loss on held-out examples" if validation else "training loss"
    curve, logarithmic = svg.curve(losses, label, [(step / len(losses), loss) for step, loss in validation])
    if not curve:
        return ""
    height = "logarithmic" if logarithmic else "linear"
    dashed = "; dashed: on held-out examples" if validation else ""
    return (
        f"<figure><figcaption><b>Loss</b>nats per target over {len(losses)} steps, {height} height{dashed}</figcaption>"
        f"{curve}"
        f'<div class="axis"><span>{losses[0]:.3f} at the start</span><span>{losses[-1]:.3f} at the end</span></div>'
        "</figure>"
    )


def spark(losses: Sequence[float], label: str) -> str:
    """A small curve in a cell."""
    return f'<td class="spark">{svg.curve(losses, label)[0]}</td>'


def moved(before: float, after: float, most: float, label: str) -> str:
    """From a grey dot to a coloured one on a common scale that begins at 0."""
    x, y = (3 + 94 * min(max(v / most, 0.0), 1.0) if most else 3.0 for v in (before, after))
    return (
        f'<svg class="moved" role="img" aria-label="{escape(label)}" height="12"><line x1="{min(x, y):.1f}%" '
        f'x2="{max(x, y):.1f}%" y1="6" y2="6"/><circle class="was" cx="{x:.1f}%" cy="6" r="4"/>'
        f'<circle cx="{y:.1f}%" cy="6" r="4.5"/></svg>'
    )


def reliability(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """How often right against how sure, before and after."""

    def dots(bins: Sequence[Mapping[str, Any]], name: str) -> str:
        most = max((b["n"] for b in bins), default=1)
        return "".join(
            f'<circle class="{name}" cx="{SIDE * b["confidence"]:.1f}" cy="{SIDE * (1 - b["accuracy"]):.1f}" '
            f'r="{2 + 5 * (b["n"] / most) ** 0.5:.1f}"><title>{b["n"]} positions: sure {b["confidence"]:.0%}, right '
            f"{b['accuracy']:.0%}</title></circle>"
            for b in bins
        )

    return (
        f'<svg class="rel" role="img" aria-label="reliability" viewBox="0 0 {SIDE} {SIDE}"><rect width="{SIDE}" '
        f'height="{SIDE}"/><line x1="0" y1="{SIDE}" x2="{SIDE}" y2="0"/>{dots(before, "was")}{dots(after, "now")}</svg>'
    )


def millions(number: int) -> str:
    """7,613,184 -> 7.6 M."""
    unit, name = (1e9, "G") if number >= 1e9 else (1e6, "M") if number >= 1e6 else (1e3, "k")
    return f"{number / unit:.3g} {name}"


def settings(config: Mapping[str, Any], lineage: Mapping[str, str]) -> str:
    """Where something comes from: `lineage` in short, and all settings folded in."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in lineage.items())
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    return section(
        "Where it comes from", "",
        f'<dl class="lineage">{rows}</dl><details><summary>Settings</summary><pre>{text}</pre></details>',
    )  # fmt: skip
