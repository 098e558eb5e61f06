"""A distillation as one HTML page: no scripts, nothing from elsewhere, light and dark.

In: what `report.json` holds. Out: the page's text, in the style of the verdicts (`gate/_report.html`). Everything is
escaped: data, answers and settings are data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from .gate import _svg

SIDE = 180  # of the reliability plot, in pixels


@dataclass(frozen=True)
class Sample:
    """One prompt and what teacher, student before and student after training say."""

    prompt: str
    teacher: str
    before: str
    after: str


def report(found: Mapping[str, Any]) -> str:
    """The page of one student."""
    before, after = found["before"], found["after"]
    share = found["parameters"] / found["teacher_parameters"]
    lead = (
        f"KL to the teacher on held-out text <b>{before['kl']:.3f} → {after['kl']:.3f}</b> nats, the same first choice "
        f"at <b>{after['agreement']:.1%}</b> of positions (before: {before['agreement']:.1%}), with "
        f"<b>{share:.0%}</b> of its parameters."
    )
    sections = [_facts(found), _pictures(found), _table(before, after), _samples(found["samples"]), _settings(found)]
    title = escape(str(found["name"]))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title>{_style()}</head><body><main><header>'
        f'<p class="kicker">Stillhouse · a student of {escape(str(found["settings"]["teacher"]))}</p>'
        f'<h1>{title}</h1><p class="lead">{lead}</p></header>{"".join(sections)}</main></body></html>\n'
    )


def _style() -> str:
    page = files("stillhouse.gate").joinpath("_report.html").read_text(encoding="utf-8")
    style = re.search(r"<style>.*?</style>", page, re.DOTALL)
    own = ".rel { width: 180px; height: 180px; } .rel rect { fill: none; stroke: var(--line); } .rel line { stroke: "
    own += (
        "var(--faint); stroke-dasharray: 3 3; } .rel circle { fill: var(--accent); } .rel .was { fill: var(--faint); }"
    )
    return (style[0] if style else "") + f"<style>{own} td.n {{ text-align: right; }}</style>"


def _facts(found: Mapping[str, Any]) -> str:
    signals = found["signals"]
    tokens = (
        "the teacher's own" if found["same_tokens"] else f"another; {found['skipped']} examples could not be aligned"
    )
    facts = {
        "signals": f"{signals['examples']} examples, {signals['positions']} positions",
        "steps": str(found["steps"]),
        "parameters": f"{found['parameters']:,} of {found['teacher_parameters']:,}",
        "tokenizer": tokens,
        "held out": f"{found['after']['positions']} positions, {found['after']['compared']} compared",
    }
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _pictures(found: Mapping[str, Any]) -> str:
    losses: Sequence[float] = found["losses"]
    svg, logarithmic = _svg.curve(losses, "training loss")
    curve = "" if not svg else (
        f"<figure><figcaption><b>Loss</b>nats per target over {len(losses)} steps, "
        f"{'logarithmic' if logarithmic else 'linear'} height</figcaption>{svg}<div class=\"axis\">"
        f"<span>{losses[0]:.3f} at the start</span><span>{losses[-1]:.3f} at the end</span></div></figure>"
    )  # fmt: skip
    plot = (
        "<figure><figcaption><b>Reliability</b>how often right (up) against how sure (right); grey: before; the dashed "
        f"line is perfect</figcaption>{_reliability(found['before']['bins'], found['after']['bins'])}</figure>"
    )
    return f'<section><h2>Training and calibration</h2><div class="pair">{curve}{plot}</div></section>'


def _reliability(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
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


def _table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    names = {
        "KL to the teacher, nats": ("kl", "{:.4f}"),
        "same first choice": ("agreement", "{:.1%}"),
        "calibration error (ECE)": ("ece", "{:.1%}"),
        "loss, nats per target": ("loss", "{:.4f}"),
    }
    rows = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td class=n>{form.format(side[key])}</td>' for side in (before, after))}</tr>"
        for name, (key, form) in names.items()
    )
    return (
        "<section><h2>On held-out text</h2><table><thead><tr><th></th><th>Before</th><th>After</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></section>"
    )


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    if not samples:
        return ""
    columns = {"teacher": "Teacher", "before": "Before", "after": "After"}

    def cell(sample: Mapping[str, str], key: str) -> str:
        same = key != "teacher" and sample[key] == sample["teacher"]
        mark = ' class="yes"' if same else ""
        return f'<td data-of="{columns[key]}"><span{mark}>{escape(sample[key]) or "(nothing)"}</span></td>'

    rows = "".join(
        f'<tr><td class="q">{escape(s["prompt"])}</td>{"".join(cell(s, key) for key in columns)}</tr>' for s in samples
    )
    head = "".join(f"<th>{label}</th>" for label in ("Prompt", *columns.values()))
    return (
        '<section><h2>Side by side</h2><p class="said">Marked: word for word the teacher\'s answer.</p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _settings(found: Mapping[str, Any]) -> str:
    text = escape(json.dumps(found["settings"], indent=2, ensure_ascii=False))
    return (
        '<section><h2>Where it comes from</h2><dl class="lineage"><dt>signals</dt>'
        f"<dd>{escape(str(found['signals']['folder']))}</dd></dl><details><summary>Settings</summary><pre>{text}</pre>"
        "</details></section>"
    )
