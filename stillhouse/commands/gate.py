"""`stillhouse gate`: every gate on one candidate, again, with a suite and a corpus of the user's own if there are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..cli.shell import command, open_store, show
from ..errors import InputError, Rejected


def add(commands: Any) -> None:
    """Declare it."""
    about = "Measure a candidate with every gate. Its version and who is served stay as they are."
    parser = command(commands, "gate", run, about)
    parser.add_argument("candidate", metavar="CANDIDATE", help="user, user@version, or the start of a digest")
    parser.add_argument("--suite", type=Path, help="questions of your own, TOML or JSONL, or a task of lm-eval, YAML")
    parser.add_argument("--corpus", type=Path, help="passages to cite: JSONL, a text file or a folder of them")
    parser.add_argument(
        "--label", action="append", default=[], metavar="SIGNAL=VALUE",
        help="what counts as evidence in the corpus: redundancy=3.0, disagreement=0.4, fragility=0.7",
    )  # fmt: skip
    parser.add_argument("--trace", type=Path, help="write every response and the way of its tokens here, as JSONL")
    parser.add_argument("--replay", type=Path, help="judge the responses of a trace in place of new ones")
    parser.add_argument("--model", help="the base, where it is no longer where it was")
    parser.add_argument("--config", type=Path, help="TOML with a [gate] table")
    parser.add_argument("--set", action="append", default=[], metavar="gate.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse gate`; `Rejected` when a gate refuses it."""
    from dataclasses import asdict

    from .. import consolidation, gating, models
    from ..cli.candidate import find, in_context, page
    from ..consolidation.result import samples
    from ..progress import progress
    from ..records import digest
    from ..storage.files import write_atomic

    settings = consolidation.read_settings(args.config, args.set).gate
    suite = gating.read_suite(args.suite) if args.suite else None
    shown = _shown(args)
    store = open_store(args)
    judged = find(store, args.candidate)
    model = models.load(args.model or models.found_again(judged.base_ref, store.home), home=store.home)
    config = gating.calibrated(store.home, model.fingerprint, settings)
    with in_context(store, model, judged, suite) as ctx:
        ctx.corpus, ctx.label_thresholds, ctx.trace = shown
        with progress(f"gate {judged.candidate.user}", len(gating.settings(config)), not args.json) as step:
            verdict = gating.run(judged.candidate, judged.digest, ctx, config, lambda name: step(1, name))
        _write_trace(args.trace, ctx)
        side_by_side = samples(ctx)
    name = store.put(verdict)
    report = store.work(digest(["report", name]), [judged.candidate.user]) / "report.html"
    write_atomic(report, page(store, judged, verdict, side_by_side).encode())
    result = asdict(verdict) | {"verdict": name, "report": str(report)}
    show(result, args.json, lambda: _print(verdict, report))
    if not verdict.passed:
        failed = ", ".join(r.gate for r in verdict.results if not r.passed)
        raise Rejected(f"{args.candidate}: rejected by {failed or 'no gate that applies'}")


def _shown(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The corpus, the limits of its labels, and the trace to judge."""
    from .. import gating, inputs
    from ..config import resolve

    if args.trace and args.replay:
        raise InputError("--trace writes what is asked now, --replay asks nothing; give one of them")
    if args.trace:
        gating.trace_target(args.trace)  # what is wrong with it is told before the work, not after it
    limits = resolve(gating.LabelThresholds, inputs.read_tables(None, args.label), "--label")
    corpus = None
    if args.corpus:
        try:
            from ..retrieve.lexical import LexicalIndex
        except ImportError as error:
            raise InputError(f"--corpus needs a retriever: pip install 'stillhouse[retrieve]' ({error})") from error
        corpus = gating.read_corpus(args.corpus, LexicalIndex)
    return corpus, limits, gating.read_trace(args.replay) if args.replay else None


def _write_trace(path: Path | None, ctx: Any) -> None:
    """Write the trace where one is wanted. A student whose logits are not numbers has none; its verdict says so."""
    from .. import gating

    if path is None:
        return
    try:
        gating.write_trace(path, ctx.trace_records())
    except FloatingPointError as error:
        print(f"no trace: {error}", file=sys.stderr)


def _print(verdict: Any, report: Path) -> None:
    from .adapters import gate_line

    for result in verdict.results:
        print(f"{'pass' if result.passed else 'FAIL'}  {gate_line(result)}")
        if not result.passed and result.details.get("remedy"):
            print(f"      {result.details['remedy']}")
        if result.details.get("sensitivity"):
            moved = [
                f"{r['signal']} {r['threshold'] + r['moved']:g}: {r['flips']}" for r in result.details["sensitivity"]
            ]
            print(f"      labels that would flip at {', '.join(moved)}")
    for name, reason in verdict.config["left_out"].items():
        print(f"  -   {name:<12} does not apply: {reason}")
    print(f"report  {report}")
