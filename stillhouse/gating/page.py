"""A verdict as one HTML page: no scripts, no fonts or pictures from elsewhere, light and dark, any width.

In: the verdict, the candidate, the study with its memory, answers side by side, the loss curve. Out: the page's text.
`report/page.html` has the style and the order of the page. Everything is escaped: memory, questions, answers, facts and
notes are data.

It does not know which gates there are. It draws a row for every result. It draws the coverage map from all `questions`
in the results' details, and bars from all `passages`.
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

from ..records import Candidate, GateResult, Question, Statement, Study, Verdict, digest
from ..report import svg
from ..text.answers import Expected, grade
from .answers import expected_by_text
from .measure import bad_end
from .pictures import calibration_pictures, figure, pictures, unit_of
from .thresholds import Calibration

_STATES = {
    "recalled": "recalled",
    "part": "recalled in part",
    "missed": "missed",
    "none": "no question about it",
    "instruction": "reads like an instruction, kept as data",
}
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class AnswerComparison:
    """One question, with the answers of base, teacher (memory in its context) and student (weights alone)."""

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
    samples: Sequence[AnswerComparison] = (),
    losses: Sequence[float] = (),
    facts: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
    tries: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page's HTML.

    `facts`: labels and short values for its head, such as tokens saved per request. `calibration`: the one that decided
    the verdict; its trials are drawn on every scale. `tries`: the candidates that were made on the way to this one,
    with this one at the end, each with `version`, `remedy`, `about`, `changes`, `approved` and `failed`.
    """
    page = Template(files("stillhouse.report").joinpath("page.html").read_text(encoding="utf-8"))
    results = sorted(verdict.results, key=lambda r: (r.passed, not r.at_least, r.gate))
    return page.substitute(
        title=escape(f"{'Approved' if verdict.passed else 'Rejected'}: {candidate.user}"),
        kicker=escape(f"Stillhouse · verdict on a memory of {candidate.user}"),
        headline="<em>Approved.</em>" if verdict.passed else "<strong>Rejected.</strong>",
        lead=_lead(results),
        todo=_todo(results),
        tries=_tries(tries),
        facts=_facts(facts or {}),
        decision=_decision(verdict),
        gates="\n".join(_gate(r, calibration) for r in results) + _left_out(verdict),
        coverage=_coverage(study, memory_text, verdict.results),
        pictures=pictures(results, losses) + calibration_pictures(calibration),
        samples=_samples(samples, expected_by_text(study)),
        lineage=_lineage(verdict, candidate, memory_text),
        config=escape(json.dumps({"train": candidate.config, "gate": verdict.config}, indent=2, ensure_ascii=False)),
    )


def _value(result: GateResult) -> str:
    tail = "" if unit_of(result) == "fraction" or result.value is None else f" {unit_of(result)}"
    return f"{figure(result.value, unit_of(result), result.threshold)}{escape(tail)}"


def _lead(results: Sequence[GateResult]) -> str:
    if not results:
        return "No gate was asked."
    failed = [r for r in results if not r.passed]
    if len(results) == 1 and not failed:
        return f"The one gate passes: {_measured(results[0])}."
    if not failed:
        near = sorted((r for r in results if not r.details.get("exact")), key=_margin)[:2]
        closest = f" Closest to the limit: {', then '.join(map(_reason, near))}." if near else ""
        return f"All {len(results)} gates pass.{closest}"
    reasons = "; ".join(_reason(r) for r in failed)
    which = "The one gate fails" if len(results) == 1 else f"{len(failed)} of {len(results)} gates fail"
    return f"{which}: {reasons}."


def _margin(result: GateResult) -> float:
    """The distance of the deciding number from the threshold, as a share of the room that there is."""
    deciding = bad_end(result) if result.details.get("decided") == "bad end" else result.value
    room = 1 - result.threshold if result.at_least and 0 <= result.threshold < 1 else abs(result.threshold)
    return abs((deciding or 0.0) - result.threshold) / (room or 1.0)


def _measured(result: GateResult) -> str:
    return f"<span>{escape(result.gate)} <b>{_value(result)}</b></span>"


def _todo(results: Sequence[GateResult]) -> str:
    """The remedies of the gates that failed. Gates with the same remedy share a row."""
    remedies: dict[str, list[str]] = {}
    for result in results:
        if not result.passed and (remedy := str(result.details.get("remedy", ""))):
            remedies.setdefault(remedy, []).append(result.gate)
    rows = "".join(f"<li><b>{escape(', '.join(gates))}</b> {escape(r)}</li>" for r, gates in remedies.items())
    tail = "<code>stillhouse consolidate --diagnose</code> tries in turn what the settings can do about it."
    return f'<div class="todo"><h2>What to change</h2><ul>{rows}</ul><p class="said">{tail}</p></div>' if rows else ""


def _tries(tries: Sequence[Mapping[str, Any]]) -> str:
    if not tries:
        return ""
    return (
        '<section><h2>How it came about</h2><p class="said">Gates refused the first candidate, and their remedies were '
        "tried in turn. Every candidate went through the same pipeline and was judged by the same gates.</p>"
        f'<ol class="tries">{"".join(map(_try, tries))}</ol></section>'
    )


def _try(candidate: Mapping[str, Any]) -> str:
    changes = ", ".join(f"{key} {old} → {new}" for key, (old, new) in candidate["changes"].items())
    refused = f"refused by {', '.join(candidate['failed']) or 'no gate that applies'}"
    outcome = "approved" if candidate["approved"] else refused
    number = f"v{candidate['version']}" if candidate["version"] else "this one"
    name = str(candidate["remedy"]).capitalize() or "As asked for"
    about = " · ".join(filter(None, (str(candidate["about"]) if candidate["remedy"] else "", changes)))
    mark = "yes" if candidate["approved"] else "no"
    return (
        f'<li class="{mark}"><b>{escape(name)}</b> <small>{escape(number)}</small>'
        f"<span>{escape(outcome)}</span><small>{escape(about)}</small></li>"
    )


def _reason(result: GateResult) -> str:
    if result.value is None:
        return f"{escape(result.gate)} could not be measured"
    bound = "at least" if result.at_least else "at most"
    limit = figure(result.threshold, unit_of(result))
    if result.details.get("decided") != "bad end":
        return f"<span>{escape(result.gate)} <b>{_value(result)}</b></span> <span>({bound} {limit})</span>"
    worst = figure(bad_end(result), unit_of(result), result.threshold)
    return (
        f"<span>{escape(result.gate)} <b>{_value(result)}</b></span> <span>(at worst {worst}, {bound} {limit})</span>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{_short(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _short(text: str) -> str:
    """The escaped text. Digests are cut to twelve digits; a tooltip has the whole one."""
    return _DIGEST.sub(lambda m: f'<span title="{m[0]}">{m[0][:12]}</span>', escape(str(text)))


def _decision(verdict: Verdict) -> str:
    """A sentence on where the thresholds come from, and on the number that they are compared with."""
    if verdict.config.get("calibrated_by"):
        return (
            "Thresholds are calibrated for this base on consolidations that are good (ticks above the line) and on "
            "sabotaged ones (below it), and decided at the bad end of the interval."
        )
    return (
        "The decision is taken on the value. Thresholds are starting values: nobody has calibrated them for this base."
    )


def _left_out(verdict: Verdict) -> str:
    rows = [f"{escape(n)} ({escape(why)})" for n, why in verdict.config.get("left_out", {}).items()]
    return f'<p class="said left">Does not apply: {"; ".join(rows)}.</p>' if rows else ""


def _trials(result: GateResult, calibration: Calibration | None) -> tuple[list[float], list[float]]:
    """What honest and what sabotaged trials measured. Both are empty where this gate's threshold is not from them."""
    if calibration is None or calibration.thresholds.get(result.gate) != result.threshold:
        return [], []
    return calibration.values(result.gate, True), calibration.values(result.gate, False)


def _gate(result: GateResult, calibration: Calibration | None) -> str:
    unit = unit_of(result)
    bound = f"{'at least' if result.at_least else 'at most'} {figure(result.threshold, unit)}"
    between = " to ".join(figure(b, unit).removesuffix(" %") for b in result.interval) if result.interval else ""
    good, bad = _trials(result, calibration)
    proportion = unit == "fraction" and result.at_least and result.threshold >= 0
    domain = svg.domain(result.value, result.threshold, result.interval, proportion, good)
    label = f"{result.gate}: {_value(result)}, {bound}"
    drawing = svg.scale(result, domain, label, good, bad)
    below = "" if unit == "fraction" else f"<small>{escape(unit)}</small>"
    note = f'<p class="note">{escape(result.note)}</p>' if result.note else ""
    mark = '<span class="mark">passes</span>' if result.passed else '<span class="mark fail">fails</span>'
    return (
        f'<div class="gate{"" if result.passed else " off"}"><div class="head">'
        f'<div class="name">{escape(result.gate)}</div>'
        f'<div class="about">{escape(str(result.details.get("about", "")))}</div></div>{drawing}'
        f'<div class="value">{figure(result.value, unit, result.threshold)}{below}</div>'
        f'<div class="bound"><span>{bound}</span><span>{between and f"95 %: {between}"}</span></div>{mark}{note}</div>'
    )


def _coverage(study: Study, memory_text: str, results: Sequence[GateResult]) -> str:
    if not study.statements:
        return ""
    all_rows = [row for r in results for row in r.details.get("questions", ())]
    rows = {s.index: [row for row in all_rows if row["statement"] == s.index] for s in study.statements}
    states = {s.index: _state(s, rows[s.index]) for s in study.statements}
    taught = [s for s in study.statements if not s.instruction]
    covered = sum(study.covered(s.index) for s in taught)
    legend = "".join(
        f'<li><span class="key {state}"></span><b>{n}</b> {text}</li>'
        for state, text in _STATES.items()
        if (n := sum(other == state for other in states.values()))
    )
    if covered < len(taught):
        rest = len(taught) - covered
        legend += (
            f'<li><span class="key uncovered"></span><b>{rest}</b> not covered: too few questions to learn from</li>'
        )
    return (
        "<section><h2>The memory, statement by statement</h2>"
        f'<p class="said">{covered} of {len(taught)} statements have questions in three wordings or more and one in '
        "reverse. Point at a statement, or tap it, to see what was asked and what the student answered by itself."
        f'</p><div class="map">{_map(study, memory_text, states, rows)}</div>'
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
    study: Study, memory_text: str, states: Mapping[int, str], questions: Mapping[int, Sequence[Mapping[str, Any]]]
) -> str:
    """The memory's text, with a mark on every statement. `questions`: rows of the results' details, by statement."""
    whole, parts, at = memory_text.encode(), [], 0
    for statement in sorted(study.statements, key=lambda s: s.start):
        start = max(statement.start, at)
        if start >= statement.end:
            continue
        parts.append(_text(whole[at:start]))
        at = statement.end
        rows, state = questions[statement.index], states[statement.index]
        pop = _questions(state, rows, study.questions, statement.index)
        share = f' style="--share:{100 * sum(bool(r["right"]) for r in rows) / len(rows):.0f}%"' if rows else ""
        text = _text(whole[start:at])
        thin = "" if state == "instruction" or study.covered(statement.index) else " uncovered"
        parts.append(f'<span class="s {state}{thin}"{share} tabindex="0">{text}<span class="pop">{pop}</span></span>')
    parts.append(_text(whole[at:]))
    return "".join(parts)


def _text(part: bytes) -> str:
    return escape(part.decode(errors="replace"))


def _questions(state: str, rows: Sequence[Mapping[str, Any]], study: Sequence[Question], statement: int) -> str:
    if not rows:
        waiting = [f"<span><i>·</i><span>{escape(q.text)}</span></span>" for q in study if q.statement == statement]
        return "".join([f"<b>{_STATES[state]}</b>", *waiting])
    return "".join(_question(row) for row in rows)


def _question(row: Mapping[str, Any]) -> str:
    mark, wanted = "<i>✓</i>", ""
    if not row["right"]:
        verdict = escape(str(row.get("verdict", "wrong")))  # verdicts that were saved before have right or wrong alone
        mark, wanted = '<i class="no">✗</i>', f" <i>{verdict}, expected</i> {escape(str(row['expected']))}"
    answer = escape(str(row["answer"])) or "(nothing)"
    return f"<span>{mark}<span>{escape(str(row['question']))} <i>→</i> {answer}{wanted}</span></span>"


def _samples(samples: Sequence[AnswerComparison], expected: Mapping[str, Expected]) -> str:
    if not samples:
        return ""
    rows = "".join(_sample(s, expected.get(s.question) or Expected(s.expected, question=s.question)) for s in samples)
    return (
        '<section><h2>Side by side</h2><p class="said">Marked: the expected answer.</p><table><thead><tr>'
        "<th>Question</th><th>Base</th><th>Teacher, memory in its context</th><th>Student, weights alone</th>"
        f"</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _sample(sample: AnswerComparison, expected: Expected) -> str:
    def cell(name: str, answer: str, extra: str = "") -> str:
        text = escape(answer) or "(nothing)"
        hit = grade(answer, expected).correct
        inside = f'<span class="yes">{text}</span>' if hit else text
        return f'<td data-of="{name}"{"" if hit else " class=dim"}><span>{inside}{extra}</span></td>'

    verdict = grade(sample.student, expected).verdict
    wanted = f'<span class="expected">{verdict}; expected: {escape(sample.expected)}</span>'
    wanted = "" if verdict == "correct" else wanted
    return (
        f'<tr><td class="q">{escape(sample.question)}</td>{cell("Base", sample.base)}'
        f"{cell('Teacher', sample.teacher)}{cell('Student', sample.student, wanted)}</tr>"
    )


def _lineage(verdict: Verdict, candidate: Candidate, memory_text: str) -> str:
    """The records from the memory to the verdict. A digest of its content names each, and each keeps the names of those
    before it."""
    chain = [
        *([("memory", digest(memory_text.encode()))] if memory_text else []),
        *(("signals", parent) for parent in candidate.parents),
        (f"candidate, {candidate.kind}, {candidate.steps} steps", verdict.candidate),
        ("verdict", digest(verdict)),
    ]
    beside = [("base", candidate.base), ("adapter", candidate.adapter)]
    if by := verdict.config.get("calibrated_by"):
        beside.append(("calibration", str(by)))
    flow = "".join(f"<li>{escape(name)}<code>{_short(value)}</code></li>" for name, value in chain)
    rest = "".join(f"<dt>{escape(name)}</dt><dd>{_short(value)}</dd>" for name, value in beside)
    return f'<ol class="flow">{flow}</ol><dl class="lineage">{rest}</dl>'
