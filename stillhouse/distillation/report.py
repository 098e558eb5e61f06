"""A distillation as one HTML page: no scripts, nothing from elsewhere, light and dark.

In: what `report.json` holds. Out: the page's text, in the style of the verdicts (`report/page.html`). Everything is
escaped: data, answers and settings are data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..report import page


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
    whole = found["teacher_parameters"]  # 0 where the teacher is an endpoint
    share = found["parameters"] / whole if whole else 0
    size = f"with <b>{share:.0%}</b> of its parameters" if share != 1 else "an adapter on as many parameters"
    size = size if whole else f"with {found['parameters']:,} parameters"
    lead = (
        f"KL to the teacher on held-out text <b>{before['kl']:.3f} → {after['kl']:.3f}</b> nats, the same first choice "
        f"at <b>{after['agreement']:.1%}</b> of positions (before: {before['agreement']:.1%}), {size}."
    )
    pictures = page.loss_figure(found["losses"]) + (
        "<figure><figcaption><b>Reliability</b>how often right (up) against how sure (right); grey: before; the dashed "
        f"line is perfect</figcaption>{page.reliability(before['bins'], after['bins'])}</figure>"
    )
    sections = [
        _facts(found),
        page.section("Training and calibration", "", f'<div class="pair">{pictures}</div>'),
        page.section("On held-out text", "", _table(before, after, found["lengths"], found.get("off_policy"))),
        _samples(found["samples"]),
        page.settings(found["settings"], {"signals": str(found["signals"]["folder"])}),
    ]
    domain = found.get("domain")
    title = f"{found['name']}: {domain}" if domain else str(found["name"])
    return page.page(title, f"Stillhouse · a student of {found['settings']['teacher']}", lead, sections)


def _facts(found: Mapping[str, Any]) -> str:
    signals = found["signals"]
    tokens = (
        "the teacher's own" if found["same_tokens"] else f"another; {found['skipped']} examples could not be aligned"
    )
    return page.facts({
        "signals": f"{signals['examples']} examples, {signals['positions']} positions",
        "steps": str(found["steps"]),
        "parameters": page.millions(found["parameters"])
        + (f" of {page.millions(found['teacher_parameters'])}" if found["teacher_parameters"] else ""),
        "tokenizer": tokens,
        "held out": f"{found['after']['positions']} positions, {found['after']['compared']} compared",
    })  # fmt: skip


def _table(
    before: Mapping[str, Any], after: Mapping[str, Any], lengths: Mapping[str, Any], twin: Mapping[str, Any] | None
) -> str:
    """Rows of measures. `twin`: the same student trained as long on stored signals alone."""
    names = {
        "KL to the teacher, nats": ("kl", "{:.4f}"),
        "same first choice": ("agreement", "{:.1%}"),
        "calibration error (ECE)": ("ece", "{:.1%}"),
        "loss, nats per target": ("loss", "{:.4f}"),
    }
    sides = [(before, "Before"), (after, "After"), *([(twin, "Off-policy")] if twin else [])]
    rows = [
        [page.cell(name), *(page.cell(form.format(side[key]), "n", of) for side, of in sides)]
        for name, (key, form) in names.items()
    ]
    if lengths["n"] and lengths["teacher"]:
        drift = [f"{lengths[side]:.0f} ({lengths[side] / lengths['teacher'] - 1:+.0%})" for side in ("before", "after")]
        name = f"characters an answer; the teacher writes {lengths['teacher']:.0f}"
        rows.append(
            [page.cell(name), *(page.cell(d, "n", of) for d, of in zip(drift, ("Before", "After"), strict=True))]
        )
        cut = f"answers that only the limit ended, of {lengths['n']}"
        rows.append([page.cell(cut), page.cell("", "n"), page.cell(f"{lengths['cut']:.0%}", "n", "After")])
    return page.table(["", *(f">{of}" for _, of in sides)], rows)


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    if not samples:
        return ""
    columns = {"teacher": "Teacher", "before": "Before", "after": "After"}

    def cell(sample: Mapping[str, str], key: str) -> str:
        same = key != "teacher" and sample[key] == sample["teacher"]
        mark = ' class="yes"' if same else ""
        return f'<td data-of="{columns[key]}"><span{mark}>{escape(sample[key]) or "(nothing)"}</span></td>'

    rows = [[f'<td class="q">{escape(s["prompt"])}</td>', *(cell(s, key) for key in columns)] for s in samples]
    said = "Marked: word for word the teacher's answer."
    return page.section("Side by side", said, page.table(["Prompt", *columns.values()], rows))
