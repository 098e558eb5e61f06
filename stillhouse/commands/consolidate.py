"""`stillhouse consolidate`: users' memories into their private adapters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli.shell import command, show
from ..errors import InputError, Rejected
from ..prestart import started_ahead


def add(commands: Any) -> None:
    """Declare it."""
    about = "Turn users' memories into their private adapters: capture, train, gate, store."
    parser = command(commands, "consolidate", run, about)
    parser.add_argument("--user", action="append", required=True, help="give --user and --memory again for more users")
    parser.add_argument(
        "--memory", action="append", required=True, help="UTF-8 text file, one per user, in the same order"
    )
    parser.add_argument("--model", default="tiny", help="tiny, a local Hugging Face folder, or a hub id")
    parser.add_argument(
        "--diagnose",
        action="store_true",
        help="when gates fail, try their remedies in turn, five more candidates at most",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that share the users; 0: as many as cores and memory allow"
    )
    parser.add_argument("--config", type=Path, help="TOML with [capture], [train] and [gate] tables")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="one setting, as in TOML")


def run(args: argparse.Namespace) -> None:
    """`stillhouse consolidate`; `Rejected` when a gate refuses one of the users."""
    with started_ahead(len(args.user), args.workers):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from .. import consolidation, inputs

    if len(args.user) != len(args.memory):
        raise InputError(f"{len(args.user)} users and {len(args.memory)} memories: give one --memory per --user")
    if len(set(args.user)) != len(args.user):
        raise InputError("a user is named twice: put one user's notes into one memory file")
    settings = consolidation.read_settings(args.config, args.set)
    memories = {user: inputs.read_memory(path) for user, path in zip(args.user, args.memory, strict=True)}
    results = consolidation.consolidate_all(
        memories, model=args.model, home=args.home, settings=settings, show=not args.json, diagnose=args.diagnose,
        workers=args.workers,
    )  # fmt: skip
    rows = [r.as_dict() for r in results]
    show(rows[0] if len(rows) == 1 else rows, args.json, lambda: [print(r.summary()) for r in results])
    refused = [r for r in results if not r.approved]
    if refused:
        raise Rejected("; ".join(f"{r.user!r} v{r.version.number} rejected by {', '.join(r.failed)}" for r in refused))
