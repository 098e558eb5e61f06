"""`stillhouse gate`: every gate on one candidate, again, with a suite of the user's own if there is one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import Rejected
from ._shell import command, open_store, show


def add(commands: Any) -> None:
    """Declare it."""
    about = "Measure a candidate with every gate. Its version and who is served stay as they are."
    parser = command(commands, "gate", run, about)
    parser.add_argument("candidate", metavar="CANDIDATE", help="user, user@version, or the start of a digest")
    parser.add_argument("--suite", type=Path, help="questions of your own, TOML or JSONL (docs/gate.md)")
    parser.add_argument("--model", help="the base, where it is no longer where it was")
    parser.add_argument("--config", type=Path, help="TOML with a [gate] table")
    parser.add_argument("--set", action="append", default=[], metavar="gate.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse gate`; `Rejected` when a gate refuses it."""
    from dataclasses import asdict

    from .. import gate, models, pipeline
    from .._pipeline_result import samples
    from ..blobs import write_atomic
    from ..progress import progress
    from ..records import digest
    from ._judged import find, in_context, page

    settings = pipeline.read_settings(args.config, args.set).gate
    suite = gate.read_suite(args.suite) if args.suite else None
    store = open_store(args)
    judged = find(store, args.candidate)
    model = models.load(args.model or judged.base_ref, cache=store.home / "fingerprints.json")
    config = gate.calibrated(store.home, model.fingerprint, settings)
    with in_context(store, model, judged, suite) as ctx:
        with progress(f"gate {judged.candidate.user}", len(gate.settings(config)), not args.json) as step:
            verdict = gate.run(judged.candidate, judged.digest, ctx, config, lambda name: step(1, name))
        side_by_side = samples(ctx)
    made = store.put(verdict)
    report = store.work(digest(["report", made]), [judged.candidate.user]) / "report.html"
    write_atomic(report, page(store, judged, verdict, side_by_side).encode())
    found = asdict(verdict) | {"verdict": made, "report": str(report)}
    show(found, args.json, lambda: _print(verdict, report))
    if not verdict.passed:
        failed = ", ".join(r.gate for r in verdict.results if not r.passed)
        raise Rejected(f"{args.candidate}: rejected by {failed or 'no gate that applies'}")


def _print(verdict: Any, report: Path) -> None:
    from .adapters import gate_line

    for result in verdict.results:
        print(f"{'pass' if result.passed else 'FAIL'}  {gate_line(result)}")
        if not result.passed and result.details.get("remedy"):
            print(f"      {result.details['remedy']}")
    for name, reason in verdict.config["left_out"].items():
        print(f"  -   {name:<12} does not apply: {reason}")
    print(f"report  {report}")
