"""A verdict as one HTML page: no scripts, no fonts or pictures from elsewhere, light and dark, any width.

In: the verdict, the candidate, the study with its memory, sample answers side by side, the loss curve. Out: the page's
text. The style and the order of the page are in `_report.html`. Everything is escaped: memory, questions, answers,
facts and notes are data.

It does not know which gates there are: it draws a row for every result, the coverage map from all `questions` in their
details, bars from all `passages`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from stillhouse.chat import is_unknown
from stillhouse.records import Candidate, GateResult, Question, Statement, Study, Verdict

from . import _svg
from ._answers import right

_STATES = {
    "recalled": "recalled",
    "part": "recalled in part",
    "missed": "missed",
    "none": "no question about it",
    "instruction": "reads like an instruction, kept as data",
}
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Sample:
    """One question and what base, teacher (memory in its context) and student (weights alone) answer."""

    question: str
    base: str
    teacher: str
    student: str
    expected: str


def report(
    verdict: Verdict,
    candidate: Candidate,
    study: Study,
    memory_text: str,
    samples: Sequence[Sample] = (),
    losses: Sequence[float] = (),
    facts: Mapping[str, str] | None = None,
) -> str:
    """The page. `facts`: short labels and values for its head, such as tokens saved per request."""
    page = Template(files(__package__).joinpath("_report.html").read_text(encoding="utf-8"))
    results = sorted(verdict.results, key=lambda r: (not r.at_least, r.gate))
    return page.substitute(
        title=escape(f"{'Approved' if verdict.passed else 'Rejected'}: {candidate.user}"),
        kicker=escape(f"Stillhouse · verdict on a memory of {candidate.user}"),
        headline="<em>Approved.</em>" if verdict.passed else "Rejected.",
        lead=_lead(results),
        facts=_facts(facts or {}),
        gates="\n".join(_gate(r) for r in results),
        coverage=_coverage(study, memory_text, verdict.results),
        pictures=_pictures(results, losses),
        samples=_samples(samples),
        lineage=_lineage(verdict, candidate),
        config=escape(json.dumps({"train": candidate.config, "gate": verdict.config}, indent=2, ensure_ascii=False)),
    )


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


def _unit(result: GateResult) -> str:
    return str(result.details.get("unit", ""))


def _shown(result: GateResult) -> str:
    tail = "" if _unit(result) == "fraction" or result.value is None else f" {_unit(result)}"
    return f"{figure(result.value, _unit(result))}{escape(tail)}"


def _lead(results: Sequence[GateResult]) -> str:
    if not results:
        return "No gate was asked."
    failed = [r for r in results if not r.passed]
    if not failed:
        numbers = ", ".join(f"<span>{escape(r.gate)} <b>{_shown(r)}</b></span>" for r in results)
        return f"{'The one gate passes' if len(results) == 1 else f'All {len(results)} gates pass'}: {numbers}."
    reasons = "; ".join(_reason(r) for r in failed)
    which = "The one gate fails" if len(results) == 1 else f"{len(failed)} of {len(results)} gates fail"
    return f"{which}: {reasons}."


def _reason(result: GateResult) -> str:
    if result.value is None:
        return f"{escape(result.gate)} could not be measured"
    bound = "at least" if result.at_least else "at most"
    limit = figure(result.threshold, _unit(result))
    return f"<span>{escape(result.gate)} <b>{_shown(result)}</b></span> <span>({bound} {limit})</span>"


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{_short(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _short(text: str) -> str:
    """Escaped, with digests cut to twelve digits; the whole one is in the tooltip."""
    return _DIGEST.sub(lambda m: f'<span title="{m[0]}">{m[0][:12]}</span>', escape(str(text)))


def _gate(result: GateResult) -> str:
    unit = _unit(result)
    bound = f"{'at least' if result.at_least else 'at most'} {figure(result.threshold, unit)}"
    between = "–".join(figure(b, unit).removesuffix(" %") for b in result.interval) if result.interval else ""
    domain = _svg.domain(result.value, result.threshold, result.interval, unit == "fraction" and result.at_least)
    label = f"{result.gate}: {_shown(result)}, {bound}"
    drawing = _svg.scale(result.value, result.threshold, result.at_least, result.interval, domain, label)
    below = "" if unit == "fraction" else f"<small>{escape(unit)}</small>"
    note = f'<p class="note">{escape(result.note)}</p>' if result.note else ""
    mark = '<span class="mark">passes</span>' if result.passed else '<span class="mark fail">fails</span>'
    return (
        f'<div class="gate"><div class="head"><div class="name">{escape(result.gate)}</div>'
        f'<div class="about">{escape(str(result.details.get("about", "")))}</div></div>{drawing}'
        f'<div class="value">{figure(result.value, unit)}{below}</div>'
        f'<div class="bound"><span>{bound}</span><span>{between and f"95 %: {between}"}</span></div>{mark}{note}</div>'
    )


def _coverage(study: Study, memory_text: str, results: Sequence[GateResult]) -> str:
    if not study.statements:
        return ""
    rows = [row for r in results for row in r.details.get("questions", ())]
    asked = {s.index: [row for row in rows if row["statement"] == s.index] for s in study.statements}
    states = {s.index: _state(s, asked[s.index]) for s in study.statements}
    taught = [s for s in study.statements if not s.instruction]
    covered = sum(study.covered(s.index) for s in taught)
    legend = "".join(
        f'<li><span class="key {state}"></span><b>{n}</b> {text}</li>'
        for state, text in _STATES.items()
        if (n := sum(found == state for found in states.values()))
    )
    return (
        "<section><h2>The memory, statement by statement</h2>"
        f'<p class="said">{covered} of {len(taught)} statements have questions in three wordings or more and one in '
        "reverse. Point at a statement, or tap it, to see what was asked and what the student answered by itself."
        f'</p><div class="map">{_map(study, memory_text, states, asked)}</div>'
        f'<ul class="legend">{legend}</ul></section>'
    )


def _state(statement: Statement, rows: Sequence[Mapping[str, Any]]) -> str:
    if statement.instruction:
        return "instruction"
    if not rows:
        return "none"
    hits = sum(bool(row["right"]) for row in rows)
    return "recalled" if hits == len(rows) else "part" if hits else "missed"


def _map(
    study: Study, memory_text: str, states: Mapping[int, str], asked: Mapping[int, Sequence[Mapping[str, Any]]]
) -> str:
    whole, parts, at = memory_text.encode(), [], 0
    for statement in sorted(study.statements, key=lambda s: s.start):
        start = max(statement.start, at)
        if start >= statement.end:
            continue
        parts.append(_text(whole[at:start]))
        at = statement.end
        rows, state = asked[statement.index], states[statement.index]
        pop = _questions(state, rows, study.questions, statement.index)
        share = f' style="--share:{100 * sum(bool(r["right"]) for r in rows) / len(rows):.0f}%"' if rows else ""
        said = _text(whole[start:at])
        parts.append(f'<span class="s {state}"{share} tabindex="0">{said}<span class="pop">{pop}</span></span>')
    parts.append(_text(whole[at:]))
    return "".join(parts)


def _text(part: bytes) -> str:
    return escape(part.decode(errors="replace"))


def _questions(state: str, rows: Sequence[Mapping[str, Any]], study: Sequence[Question], statement: int) -> str:
    if not rows:
        waiting = [f"<span><i>·</i><span>{escape(q.text)}</span></span>" for q in study if q.statement == statement]
        return "".join([f"<b>{_STATES[state]}</b>", *waiting])
    return "".join(_asked(row) for row in rows)


def _asked(row: Mapping[str, Any]) -> str:
    mark, wanted = "<i>✓</i>", ""
    if not row["right"]:
        mark, wanted = '<i class="no">✗</i>', f" <i>expected</i> {escape(str(row['expected']))}"
    answer = escape(str(row["answer"])) or "(nothing)"
    return f"<span>{mark}<span>{escape(str(row['question']))} <i>→</i> {answer}{wanted}</span></span>"


def _pictures(results: Sequence[GateResult], losses: Sequence[float]) -> str:
    figures = [_losses(losses), *(_passages(r) for r in results if r.details.get("passages"))]
    inside = "".join(figures)
    return f'<section><h2>Training and drift</h2><div class="pair">{inside}</div></section>' if inside else ""


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
    unit = _unit(result)
    titles = [f"passage {i}: {figure(v, unit)} {unit}" for i, v in enumerate(values, 1)]
    known = [v for v in values if v is not None]
    return (
        f"<figure><figcaption><b>{escape(result.gate.capitalize())}, passage by passage</b>{escape(unit)}; "
        f"dashed: {figure(result.threshold, unit)}, the threshold of the mean</figcaption>"
        f"{_svg.bars(values, result.threshold, titles, f'{result.gate} per passage')}"
        f'<div class="axis"><span>least {figure(min(known, default=None), unit)}</span>'
        f"<span>most {figure(max(known, default=None), unit)}</span></div></figure>"
    )


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    rows = "".join(_sample(s) for s in samples)
    return (
        '<section><h2>Side by side</h2><p class="said">Marked: the expected answer.</p><table><thead><tr>'
        "<th>Question</th><th>Base</th><th>Teacher, memory in its context</th><th>Student, weights alone</th>"
        f"</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _sample(sample: Sample) -> str:
    def cell(name: str, answer: str, extra: str = "") -> str:
        shown = escape(answer) or "(nothing)"
        hit = _marked(answer, sample.expected)
        inside = f'<span class="yes">{shown}</span>' if hit else shown
        return f'<td data-of="{name}"{"" if hit else " class=dim"}><span>{inside}{extra}</span></td>'

    missing = not _marked(sample.student, sample.expected)
    wanted = f'<span class="expected">expected: {escape(sample.expected)}</span>' if missing else ""
    return (
        f'<tr><td class="q">{escape(sample.question)}</td>{cell("Base", sample.base)}'
        f"{cell('Teacher', sample.teacher)}{cell('Student', sample.student, wanted)}</tr>"
    )


def _marked(answer: str, expected: str) -> bool:
    return is_unknown(answer) if is_unknown(expected) else right(answer, expected)


def _lineage(verdict: Verdict, candidate: Candidate) -> str:
    rows = [
        ("candidate", verdict.candidate),
        ("kind", f"{candidate.kind}, {candidate.steps} steps"),
        ("base", candidate.base),
        ("adapter", candidate.adapter),
        *(("from", parent) for parent in candidate.parents),
    ]
    return "".join(f"<dt>{escape(k)}</dt><dd>{_short(v)}</dd>" for k, v in rows)
