"""The pages of a distillation: a student, all specialists of a student, an audit.

In: what `report.json` and `audit.json` hold. Out: HTML without scripts or anything from elsewhere, light and dark, in
the style of the verdicts (`report/page.py`). Everything is escaped: data, answers and settings are data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..records import BestStep
from ..report import page

METRICS = {
    "KL to the teacher, nats": ("kl", "{:.4f}"),
    "same first choice": ("agreement", "{:.1%}"),
    "calibration error (ECE)": ("ece", "{:.1%}"),
    "loss, nats per target": ("loss", "{:.4f}"),
}


def student_page(content: Mapping[str, Any]) -> str:
    """The page of one student, or of its specialist of one domain."""
    before, after = content["before"], content["after"]
    whole = content["teacher_parameters"]  # 0 where the teacher is an endpoint
    share = content["parameters"] / whole if whole else 0
    size = f"with <b>{share:.0%}</b> of its parameters" if share != 1 else "an adapter on as many parameters"
    size = size if whole else f"with {content['parameters']:,} parameters"
    lead = (
        f"KL to the teacher on held-out text <b>{before['kl']:.3f} → {after['kl']:.3f}</b> nats, the same first choice "
        f"at <b>{after['agreement']:.1%}</b> of positions (before: {before['agreement']:.1%}), {size}."
    )
    pictures = page.loss_figure(content["losses"], content.get("validation", ())) + (
        "<figure><figcaption><b>Reliability</b>how often right (up) against how sure (right); grey: before; the dashed "
        f"line is perfect</figcaption>{page.reliability(before['bins'], after['bins'])}</figure>"
    )
    sections = [
        _facts(content),
        page.section("Training and calibration", _chosen(content), f'<div class="pair">{pictures}</div>'),
        page.section("On held-out text", "", _metrics(before, after, content["lengths"], content.get("off_policy"))),
        _samples(content["samples"]),
        page.settings(content["settings"], {"signals": str(content["signals"]["folder"])}),
    ]
    domain = content.get("domain")
    title = f"{content['name']}: {domain}" if domain else str(content["name"])
    return page.page(title, f"Stillhouse · a student of {content['settings']['teacher']}", lead, sections)


def _chosen(content: Mapping[str, Any]) -> str:
    """Which step the weights are of, where validation chose it."""
    if "best" not in content:
        return ""
    line = BestStep(**content["best"]).line(content["steps"])
    return (
        f"The student is the {line}. It was chosen on held-out data, which flatters the figures of the same data below."
    )


def _facts(content: Mapping[str, Any]) -> str:
    signals, after = content["signals"], content["after"]
    other = f"another; {content['skipped']} examples could not be aligned"
    return page.facts({
        "signals": f"{signals['examples']} examples, {signals['positions']} positions",
        "steps": str(content["steps"]),
        "parameters": _size(content),
        "tokenizer": "the teacher's own" if content["same_tokens"] else other,
        "held out": f"{after['positions']} positions, {after['compared']} compared",
    })  # fmt: skip


def _size(content: Mapping[str, Any]) -> str:
    """The student's parameters, and the teacher's where they are known."""
    whole = content["teacher_parameters"]
    return page.millions(content["parameters"]) + (f" of {page.millions(whole)}" if whole else "")


def _metrics(
    before: Mapping[str, Any], after: Mapping[str, Any], lengths: Mapping[str, Any], twin: Mapping[str, Any] | None
) -> str:
    """A table of metrics. `twin`: the same student trained as long on stored signals alone."""
    sides = {"Before": before, "After": after} | ({"Off-policy": twin} if twin else {})
    rows = [
        [page.cell(name), *(page.cell(form.format(side[key]), "n", head) for head, side in sides.items())]
        for name, (key, form) in METRICS.items()
    ]
    if lengths["n"] and lengths["teacher"]:
        length = {side: f"{lengths[side]:.0f} ({_drift(lengths, side)})" for side in ("before", "after")}
        name = f"characters an answer; the teacher writes {lengths['teacher']:.0f}"
        rows.append([page.cell(name), *(page.cell(text, "n", side.title()) for side, text in length.items())])
        cut = f"answers that only the limit ended, of {lengths['n']}"
        rows.append([page.cell(cut), page.cell("", "n"), page.cell(f"{lengths['cut']:.0%}", "n", "After")])
    return page.table(["", *(f">{head}" for head in sides)], rows)


def _drift(lengths: Mapping[str, Any], side: str) -> str:
    """How much longer than the teacher's the student's answers are."""
    return f"{lengths[side] / lengths['teacher'] - 1:+.0%}" if lengths["teacher"] else "–"


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    if not samples:
        return ""
    columns = {"teacher": "Teacher", "before": "Before", "after": "After"}

    def cell(sample: Mapping[str, str], key: str) -> str:
        same = key != "teacher" and sample[key] == sample["teacher"]
        mark = ' class="yes"' if same else ""
        return f'<td data-of="{columns[key]}"><span{mark}>{escape(sample[key]) or "(nothing)"}</span></td>'

    rows = [[f'<td class="q">{escape(s["prompt"])}</td>', *(cell(s, key) for key in columns)] for s in samples]
    note = "Marked: word for word the teacher's answer."
    return page.section("Side by side", note, page.table(["Prompt", *columns.values()], rows))


def domains_page(content: Mapping[str, Any]) -> str:
    """The page of all specialists of one student: every domain a row, the router below."""
    domains: Sequence[Mapping[str, Any]] = content["domains"]
    kl = [(d["before"]["kl"], d["after"]["kl"]) for d in domains]
    nearer = sum(after < before for before, after in kl)
    means = [sum(side) / len(kl) for side in zip(*kl, strict=True)]
    lead = (
        f"{len(domains)} specialists on one base, trained in the same batches. <b>{nearer} of {len(domains)}</b> are "
        f"nearer their teacher on held-out text: KL <b>{means[0]:.3f} → {means[1]:.3f}</b> nats in the mean over "
        "domains."
    )
    rows = list(_domain_rows(domains, max(max(pair) for pair in kl)))
    heads = ["Domain", "Loss", "KL to the teacher", ">nats", ">Same choice", ">ECE", ">Length", ">Steps"]
    chosen = "; each is of its best step on held-out data, which flatters the figures of the same data"
    chosen = chosen if any("best" in d for d in domains) else ""
    key = (
        '<p class="said key"><span class="dot was"></span>before<span class="dot"></span>after; length is that of '
        f"the specialist's answers against the teacher's{chosen}</p>"
    )
    held_out = f"{sum(d['after']['positions'] for d in domains)} positions"
    sections = [
        page.facts({"domains": str(len(domains)), "parameters": _size(content), "held out": held_out}),
        page.section("Domain by domain", "", f'{key}<div class="wide">{page.table(heads, rows)}</div>'),
        _router(content["router"], [d["domain"] for d in domains]),
        page.settings(content["settings"], {d["domain"]: d["signals"] for d in domains}),
    ]
    kicker = f"Stillhouse · specialists of {content['settings']['teacher']}"
    return page.page(str(content["name"]), kicker, lead, sections)


def _domain_rows(domains: Sequence[Mapping[str, Any]], most: float) -> Iterator[list[str]]:
    """A row per domain; `most` nats of KL are the end of the common scale."""
    for d in domains:
        before, after, name = d["before"], d["after"], str(d["domain"])
        label = f"{name}: KL {before['kl']:.3f} before, {after['kl']:.3f} after"
        numbers = {
            "KL, nats": f"{before['kl']:.3f} → {after['kl']:.3f}",
            "Same choice": f"{before['agreement']:.0%} → {after['agreement']:.0%}",
            "ECE": f"{before['ece']:.1%} → {after['ece']:.1%}",
            "Length": _drift(d["lengths"], "after"),
            "Steps": f"{d['best']['step']} of {d['steps']}" if "best" in d else str(d["steps"]),
        }
        yield [
            f'<td class="name"><a href="{escape(d["folder"])}/report.html">{escape(name)}</a></td>',
            page.spark(d["losses"], f"{name}: training loss"),
            f"<td class=dots>{page.moved(before['kl'], after['kl'], most, label)}</td>",
            *(page.cell(text, "n", head) for head, text in numbers.items()),
        ]


def _router(router: Mapping[str, Any], names: Sequence[str]) -> str:
    """What the router is worth, and which requests it sends where."""
    low, high = router["interval"]
    note = (
        f"Of {router['n']} held-out requests that nothing was set by, {router['routed']:.0%} go to a specialist, and "
        f"{router['right']:.0%} of those to their own (95 %: {low:.0%} to {high:.0%}); the teacher answers the rest. "
        f"The probe alone is right on {router['accuracy']:.0%}, its confidence off by {router['ece']:.1%} (ECE)."
    )
    rows = [
        [page.cell(name, "name"), *_heat((*names, "teacher"), counts)]
        for name, counts in zip(names, router["confusion"], strict=True)
    ]
    heads = ["Requests of", *(f">{n}" for n in names), ">teacher"]
    return page.section("The router", note, f'<div class="wide">{page.table(heads, rows, "heat")}</div>')


def _heat(names: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    """Cells with counts, coloured by their share."""
    whole = max(1, sum(counts))
    for name, n in zip(names, counts, strict=True):
        yield (
            f'<td class="n" data-of="{escape(name)}" style="background: color-mix(in srgb, var(--tint) '
            f'{100 * n / whole:.0f}%, transparent)"><span>{n or "·"}</span></td>'
        )


def audit_page(audits: Sequence[Mapping[str, Any]]) -> str:
    """The page of a student's audits, the worst answers of each below."""
    n = sum(a["n"] for a in audits)
    same = sum(a["same"] * a["n"] for a in audits) / n
    short = sum((a["own"] - a["likelihood"]) * a["n"] for a in audits) / n
    lead = (
        f"The teacher gives the same answer to <b>{same:.0%}</b> of {n} requests, and finds the student's answers "
        f"<b>{short:.2f}</b> nats a token less likely than its own."
    )
    rows = []
    for a in audits:
        numbers = {
            "Requests": str(a["n"]), "Same answer": f"{a['same']:.0%}", "First choice": f"{a['first']:.0%}",
            "Likelihood": _nats(a["likelihood"]), "Its own": _nats(a["own"]), "Corrected": str(a["corrected"]),
        }  # fmt: skip
        cells = [page.cell(text, "n", head) for head, text in numbers.items()]
        rows.append([page.cell(a["domain"] or a["name"], "name"), *cells])
    heads = ["", *(f">{head}" for head in numbers)]
    note = "Likelihoods are the teacher's, in nats per token of the student's and of its own answers."
    table = page.section("The audit", note, f'<div class="wide">{page.table(heads, rows)}</div>')
    sections = [table, *(_worst(a) for a in audits)]
    return page.page(str(audits[0]["name"]), "Stillhouse · audited by its teacher", lead, sections)


def _nats(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")


def _worst(audit: Mapping[str, Any]) -> str:
    if not audit["worst"]:
        return ""
    rows = [
        [page.cell(w["request"], "q"), page.cell(w["student"] or "(nothing)", of="Student"),
         page.cell(w["teacher"] or "(nothing)", of="Teacher"), page.cell(f"{w['short']:.2f}", "n", "Short, nats")]
        for w in audit["worst"]
    ]  # fmt: skip
    title = f"Worst answers: {audit['domain']}" if audit["domain"] else "Worst answers"
    return page.section(title, "Furthest from what the teacher would say, per token.",
                        page.table(["Request", "Student", "Teacher", ">Short, nats"], rows))  # fmt: skip
