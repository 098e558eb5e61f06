"""The command line: arguments in, stage functions called, one result printed.

Every command takes `--home DIR` and `--json`. Exit codes: 0 done, 1 refused by a gate, 2 wrong use (one clear line on
stderr), 130 interrupted. Results go to stdout, progress to stderr. It holds no logic of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import InputError, Rejected, StillhouseError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()  # here a full disk or a closed pipe can still be said
        return 0
    except StillhouseError as error:
        print(f"stillhouse: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stillhouse: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"stillhouse: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stillhouse", description="What a model knows, into the weights of another.")
    parser.add_argument("--version", action="version", version=f"stillhouse {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _demo(commands)
    _consolidate(commands)
    _ask(commands)
    _adapters(commands)
    _artifacts(commands)
    _store(commands)
    _forget(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("stillhouse")
    except metadata.PackageNotFoundError:
        return "(not installed: running from its source)"


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.add_argument("--home", type=Path, default=None, help="where everything is kept (default ~/.stillhouse)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no progress")
    parser.set_defaults(run=run)
    return parser


def _demo(commands: Any) -> None:
    about = "Consolidate a memory and compare: base, teacher with the memory, student without it."
    parser = _command(commands, "demo", run_demo, about)
    parser.add_argument(
        "memory", nargs="?", default="examples/alice.md", help="memory file (default examples/alice.md)"
    )
    parser.add_argument("--model", default="tiny", help="tiny, a local Hugging Face folder, or a hub id")
    parser.add_argument("--user", default="alice")


def _consolidate(commands: Any) -> None:
    about = "Turn users' memories into their private adapters: capture, train, gate, store."
    parser = _command(commands, "consolidate", run_consolidate, about)
    parser.add_argument("--user", action="append", required=True, help="give --user and --memory again for more users")
    parser.add_argument(
        "--memory", action="append", required=True, help="UTF-8 text file, one per user, in the same order"
    )
    parser.add_argument("--model", default="tiny", help="tiny, a local Hugging Face folder, or a hub id")
    parser.add_argument("--config", type=Path, help="TOML with [capture], [train] and [gate] tables")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="one setting, as in TOML")


def _ask(commands: Any) -> None:
    about = "Ask a user's weights, or a memory in the context, or the base alone."
    parser = _command(commands, "ask", run_ask, about)
    parser.add_argument("question")
    parser.add_argument("--user")
    parser.add_argument("--memory", help="memory file to put in the context (the teacher)")
    parser.add_argument("--model", default=None, help="default: the base of the user's adapter")


def _adapters(commands: Any) -> None:
    parser = commands.add_parser("adapters", help="List, show or roll back a user's versions.")
    verbs = parser.add_subparsers(required=True, metavar="list|show|rollback")
    listed = _command(verbs, "list", run_adapters_list, "All versions of a user; the champion is marked.")
    listed.add_argument("--user", help="default: every user")
    shown = _command(verbs, "show", run_adapters_show, "One version with its verdict, files and lineage.")
    shown.add_argument("--user", required=True)
    shown.add_argument("--number", type=int, help="default: the champion")
    back = _command(verbs, "rollback", run_adapters_rollback, "Serve the previous champion again, or --to one.")
    back.add_argument("--user", required=True)
    back.add_argument("--to", type=int)


def _artifacts(commands: Any) -> None:
    parser = commands.add_parser("artifacts", help="Show records by digest.")
    verbs = parser.add_subparsers(required=True, metavar="show")
    shown = _command(
        verbs, "show", run_artifacts_show, "Any record (signals, candidate, verdict, version) by its digest."
    )
    shown.add_argument("id", metavar="ID", help="a digest, or at least 6 leading characters of one")


def _store(commands: Any) -> None:
    parser = commands.add_parser("store", help="Check the store, or make its index again.")
    verbs = parser.add_subparsers(required=True, metavar="verify|rebuild")
    _command(verbs, "verify", run_store_verify, "Check every blob, manifest, version and alias.")
    _command(verbs, "rebuild", run_store_rebuild, "Make registry.duckdb again from the manifests.")


def _forget(commands: Any) -> None:
    parser = _command(commands, "forget", run_forget, "Remove everything of a user, and prove it.")
    parser.add_argument("--user", required=True)


def run_demo(args: argparse.Namespace) -> None:
    """`stillhouse demo`."""
    from . import demo

    demo.run(args.memory, args.user, args.model, args.home, as_json=args.json)


def run_consolidate(args: argparse.Namespace) -> None:
    """`stillhouse consolidate`; `Rejected` when a gate refuses one of the users."""
    from . import pipeline

    if len(args.user) != len(args.memory):
        raise InputError(f"{len(args.user)} users and {len(args.memory)} memories: give one --memory per --user")
    if len(set(args.user)) != len(args.user):
        raise InputError("a user is named twice: put one user's notes into one memory file")
    settings = pipeline.read_settings(args.config, args.set)
    memories = {user: pipeline.read_memory(path) for user, path in zip(args.user, args.memory, strict=True)}
    results = pipeline.consolidate_all(
        memories, model=args.model, home=args.home, settings=settings, show=not args.json
    )
    found = [r.as_dict() for r in results]
    _print(found[0] if len(found) == 1 else found, args.json, lambda: [print(r.summary()) for r in results])
    refused = [r for r in results if not r.approved]
    if refused:
        raise Rejected("; ".join(f"{r.user!r} v{r.version.number} rejected by {', '.join(r.failed)}" for r in refused))


def run_ask(args: argparse.Namespace) -> None:
    """`stillhouse ask`."""
    from . import pipeline
    from .serve.ask import ask

    memory = pipeline.read_memory(args.memory) if args.memory else None
    reply = ask(_open(args), args.question, args.user, memory, args.model)
    _print(asdict(reply), args.json, lambda: print(reply.answer))


def run_adapters_list(args: argparse.Namespace) -> None:
    """`stillhouse adapters list`."""
    store = _open(args)
    users = store.users() if args.user is None else [args.user]
    rows = []
    for user in users:
        champion = store.champion(user)
        served = None if champion is None else champion.number
        rows += [_version_row(v) | {"champion": v.number == served} for v in store.versions(user)]
    if args.user is not None and not rows:
        raise InputError(f"user {args.user!r} has no versions; known users: {', '.join(store.users()) or 'none'}")

    def lines() -> None:
        for r in rows:
            mark, state = "*" if r["champion"] else " ", "approved" if r["approved"] else "rejected"
            made = f"{r['created']}  base {r['base'][:12]}  {r['candidate'][:12]}"
            print(f"{mark} {r['user']} v{r['number']}  {state}  {made}")

    _print(rows, args.json, lines)


def run_adapters_show(args: argparse.Namespace) -> None:
    """`stillhouse adapters show`."""
    from .records import Verdict

    store = _open(args)
    version = _pick(store, args.user, args.number)
    folder = store.version_dir(args.user, version.number)
    verdict = store.get(Verdict, version.verdict)
    lineage = [list(step) for step in store.lineage(version.candidate)]
    gates = [asdict(r) for r in verdict.results]
    found = _version_row(version) | {"folder": str(folder), "gates": gates, "lineage": lineage}

    def lines() -> None:
        print(f"{version.user} v{version.number}: {'approved' if version.approved else 'rejected'}, {version.created}")
        print(f"folder  {folder}\nreport  {folder / 'gate_report.html'}")
        print(f"base    {version.base_ref} ({version.base[:12]})")
        for r in verdict.results:
            print(f"{'pass' if r.passed else 'FAIL'}  {gate_line(r)}")
        for kind, digest, summary in lineage:
            print(f"{kind:<10} {digest[:12]}  {summary}")

    _print(found, args.json, lines)


def run_adapters_rollback(args: argparse.Namespace) -> None:
    """`stillhouse adapters rollback`."""
    version = _open(args).rollback(args.user, args.to)
    _print(_version_row(version), args.json, lambda: print(f"{args.user} is now served by v{version.number}"))


def run_artifacts_show(args: argparse.Namespace) -> None:
    """`stillhouse artifacts show`."""
    kind, digest, record = _open(args).find(args.id)
    found = {"kind": kind.__name__.lower(), "digest": digest, "record": asdict(record)}
    _print(found, args.json, lambda: print(json.dumps(found, indent=2, ensure_ascii=False)))


def run_store_verify(args: argparse.Namespace) -> None:
    """`stillhouse store verify`; `Rejected` when there are problems."""
    problems = _open(args).verify()
    _print({"clean": not problems, "problems": problems}, args.json, lambda: print("\n".join(problems) or "clean"))
    if problems:
        raise Rejected(f"the store has {len(problems)} problem(s)")


def run_store_rebuild(args: argparse.Namespace) -> None:
    """`stillhouse store rebuild`."""
    rows = _open(args).rebuild()
    _print({"rows": rows}, args.json, lambda: print(f"registry.duckdb made again: {rows} rows"))


def run_forget(args: argparse.Namespace) -> None:
    """`stillhouse forget`."""
    counts = _open(args).forget(args.user)
    text = ", ".join(f"{n} {name}" for name, n in counts.items())
    _print(counts, args.json, lambda: print(f"forgot {args.user!r}: {text}"))


def gate_line(result: Any) -> str:
    """One gate in one line: name, value against threshold, sample size, note."""
    value = "nothing measured" if result.value is None else f"{result.value:.4g}"
    bound = f"{'at least' if result.at_least else 'at most'} {result.threshold:g}"
    return f"{result.gate:<12} {value:>10}  ({bound}, n={result.n}) {result.note}".rstrip()


def _version_row(version: Any) -> dict[str, Any]:
    return asdict(version) | {"parents": list(version.parents)}


def _pick(store: Any, user: str, number: int | None) -> Any:
    versions = store.versions(user)
    if not versions:
        raise InputError(f"user {user!r} has no versions; known users: {', '.join(store.users()) or 'none'}")
    if number is None:
        return store.champion(user) or versions[-1]
    for version in versions:
        if version.number == number:
            return version
    raise InputError(f"user {user!r} has no v{number}; there are: {', '.join(f'v{v.number}' for v in versions)}")


def _open(args: argparse.Namespace) -> Any:
    from .pipeline import home_folder
    from .store import Store

    return Store(home_folder(args.home))


def _print(found: Any, as_json: bool, lines: Callable[[], object]) -> None:
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        lines()


if __name__ == "__main__":
    sys.exit(main())
