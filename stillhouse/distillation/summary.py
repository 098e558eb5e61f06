"""A student's specialists on one page: every domain a row, the router below.

In: what the summary's `report.json` holds. Out: the page's text. Everything is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..report import page


def summary(found: Mapping[str, Any]) -> str:
    """The page of all domains of one student."""
    domains: Sequence[Mapping[str, Any]] = found["domains"]
    kl = [(d["before"]["kl"], d["after"]["kl"]) for d in domains]
    nearer = sum(after < before for before, after in kl)
    means = [sum(side) / len(kl) for side in zip(*kl, strict=True)]
    lead = (
        f"{len(domains)} specialists on one base, trained in the same batches. <b>{nearer} of {len(domains)}</b> are "
        f"nearer their teacher on held-out text: KL <b>{means[0]:.3f} → {means[1]:.3f}</b> nats in the mean over "
        "domains."
    )
    rows = list(_rows(domains, max(max(pair) for pair in kl)))
    heads = ["Domain", "Loss", "KL to the teacher", ">nats", ">Same choice", ">ECE", ">Length", ">Steps"]
    key = '<p class="said key"><span class="dot was"></span>before<span class="dot"></span>after; length is that of '
    key += "the specialist's answers against the teacher's</p>"
    sections = [
        page.facts({
            "domains": str(len(domains)),
            "parameters": _size(found),
            "held out": f"{sum(d['after']['positions'] for d in domains)} positions",
        }),
        page.section("Domain by domain", "", f'{key}<div class="wide">{page.table(heads, rows)}</div>'),
        _router(found["router"], [d["domain"] for d in domains]),
        page.settings(found["settings"], {d["domain"]: d["signals"] for d in domains}),
    ]  # fmt: skip
    return page.page(str(found["name"]), f"Stillhouse · specialists of {found['settings']['teacher']}", lead, sections)


def _size(found: Mapping[str, Any]) -> str:
    """Its parameters, and the teacher's where anybody knows."""
    whole = found["teacher_parameters"]
    return page.millions(found["parameters"]) + (f" of {page.millions(whole)}" if whole else "")


def _rows(domains: Sequence[Mapping[str, Any]], most: float) -> Iterator[list[str]]:
    for d in domains:
        before, after, name = d["before"], d["after"], str(d["domain"])
        link = f'<td class="name"><a href="{escape(d["folder"])}/report.html">{escape(name)}</a></td>'
        label = f"{name}: KL {before['kl']:.3f} before, {after['kl']:.3f} after"
        dots = f"<td class=dots>{page.moved(before['kl'], after['kl'], most, label)}</td>"
        kl = f"{before['kl']:.3f} → {after['kl']:.3f}"
        same = f"{before['agreement']:.0%} → {after['agreement']:.0%}"
        ece = f"{before['ece']:.1%} → {after['ece']:.1%}"
        cells = (page.cell(kl, "n", "KL, nats"), page.cell(same, "n", "Same choice"), page.cell(ece, "n", "ECE"),
                 page.cell(_drift(d["lengths"]), "n", "Length"), page.cell(str(d["steps"]), "n", "Steps"))  # fmt: skip
        yield [link, page.spark(d["losses"], f"{name}: training loss"), dots, *cells]


def _drift(lengths: Mapping[str, Any]) -> str:
    return f"{lengths['after'] / lengths['teacher'] - 1:+.0%}" if lengths["teacher"] else "–"


def _router(router: Mapping[str, Any] | None, names: Sequence[str]) -> str:
    if router is None:
        return ""
    low, high = router["interval"]
    said = (
        f"Of {router['n']} held-out requests that nothing was set by, {router['routed']:.0%} go to a specialist, and "
        f"{router['right']:.0%} of those to their own (95 %: {low:.0%} to {high:.0%}); the teacher answers the rest. "
        f"The probe alone is right on {router['accuracy']:.0%}, its confidence off by {router['ece']:.1%} (ECE)."
    )
    rows = []
    for name, counts in zip(names, router["confusion"], strict=True):
        whole = max(1, sum(counts))
        cells = [
            f'<td class="n" data-of="{escape(to)}" style="background: color-mix(in srgb, var(--tint) '
            f'{100 * n / whole:.0f}%, transparent)"><span>{n or "·"}</span></td>'
            for to, n in zip((*names, "teacher"), counts, strict=True)
        ]
        rows.append([page.cell(name, "name"), *cells])
    heads = ["Requests of", *(f">{n}" for n in names), ">teacher"]
    return page.section("The router", said, f'<div class="wide">{page.table(heads, rows, "heat")}</div>')
