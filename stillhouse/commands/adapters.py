"""`stillhouse adapters`: a user's versions."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..cli.shell import command, open_store, pick_version, show, version_row
from ..errors import InputError


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("adapters", help="List, show or roll back a user's versions.")
    verbs = parser.add_subparsers(required=True, metavar="list|show|rollback")
    list_parser = command(verbs, "list", list_all, "All versions of a user; the champion is marked.")
    list_parser.add_argument("--user", help="default: every user")
    show_parser = command(verbs, "show", show_one, "One version with its verdict, files and lineage.")
    show_parser.add_argument("--user", required=True)
    show_parser.add_argument("--number", type=int, help="default: the champion")
    rollback_parser = command(verbs, "rollback", rollback, "Serve the previous champion again, or --to one.")
    rollback_parser.add_argument("--user", required=True)
    rollback_parser.add_argument("--to", type=int)


def list_all(args: argparse.Namespace) -> None:
    """`stillhouse adapters list`."""
    store = open_store(args)
    users = store.users() if args.user is None else [args.user]
    rows = []
    for user in users:
        champion = store.champion(user)
        served = None if champion is None else champion.number
        rows += [version_row(v) | {"champion": v.number == served} for v in store.versions(user)]
    if args.user is not None and not rows:
        raise InputError(f"user {args.user!r} has no versions; known users: {', '.join(store.users()) or 'none'}")

    def lines() -> None:
        for r in rows:
            mark, state = "*" if r["champion"] else " ", "approved" if r["approved"] else "rejected"
            details = f"{r['created']}  base {r['base'][:12]}  {r['candidate'][:12]}"
            print(f"{mark} {r['user']} v{r['number']}  {state}  {details}")

    show(rows, args.json, lines)


def show_one(args: argparse.Namespace) -> None:
    """`stillhouse adapters show`."""
    from ..records import Verdict

    store = open_store(args)
    version = pick_version(store, args.user, args.number)
    folder = store.version_dir(args.user, version.number)
    verdict = store.get(Verdict, version.verdict)
    lineage = [list(step) for step in store.lineage(version.candidate)]
    gates = [asdict(r) for r in verdict.results]
    result = version_row(version) | {"folder": str(folder), "gates": gates, "lineage": lineage}

    def lines() -> None:
        print(f"{version.user} v{version.number}: {'approved' if version.approved else 'rejected'}, {version.created}")
        print(f"folder  {folder}\nreport  {folder / 'gate_report.html'}")
        print(f"base    {version.base_ref} ({version.base[:12]})")
        for r in verdict.results:
            print(f"{'pass' if r.passed else 'FAIL'}  {gate_line(r)}")
        for kind, digest, summary in lineage:
            print(f"{kind:<10} {digest[:12]}  {summary}")

    show(result, args.json, lines)


def rollback(args: argparse.Namespace) -> None:
    """`stillhouse adapters rollback`."""
    version = open_store(args).rollback(args.user, args.to)
    show(version_row(version), args.json, lambda: print(f"{args.user} is now served by v{version.number}"))


def gate_line(result: Any) -> str:
    """One gate in one line: name, value against threshold, sample size, note."""
    value = "nothing measured" if result.value is None else f"{result.value:.4g}"
    bound = f"{'at least' if result.at_least else 'at most'} {result.threshold:g}"
    return f"{result.gate:<12} {value:>10}  ({bound}, n={result.n}) {result.note}".rstrip()
